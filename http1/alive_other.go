//go:build !unix

package http1

import "net"

// alive cannot look into connections here; a dead one shows when it is used.
func alive(net.Conn) bool { return true }

// gone cannot look into connections here; a client that left is noticed when the reply is written.
func gone(net.Conn) bool { return false }
