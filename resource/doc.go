// Package resource holds the YAML kinds of Dapr (Component, Configuration, Subscription, Resiliency, HTTPEndpoint,
// WorkflowAccessPolicy and MCPServer) and everything needed to get from files to typed values: reading directories,
// splitting documents, YAML 1.1 typing, filtering by namespace, scope and deny list, duplicate detection, environment
// and secret references, and metadata templates.
//
// Load reads resource directories and returns a Set; LoadConfiguration reads configuration files; Decode takes one
// document, e.g. one sent by the operator. Whatever is wrong with a document is a Problem that says where (file, document,
// line), what, and how to fix it; only what must stop a sidecar is an error.
//
// The package keeps no state and reads neither the process environment nor a source of randomness by itself: both
// are given by the caller, so that any number of sidecars can live in one process.
package resource
