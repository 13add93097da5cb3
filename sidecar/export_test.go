package sidecar

// UnbuiltMethods lets tests see which methods are refused.
var UnbuiltMethods = unbuiltMethods
