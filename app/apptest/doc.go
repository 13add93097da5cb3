// Package apptest helps testing what talks to an app: apps over each protocol on loopback ports, channels that end with the test,
// and waiting for what an app or its sidecar does in its own time.
//
// It does not import package app, so that the tests of that package can use it, too: a protocol is the text of an app.Protocol, and
// [Open] is given the function that makes a channel.
package apptest
