package serving

import (
	"bufio"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"

	"outrigger.dev/identity"
)

// EitherWay is the security of a service on a machine where some apps have identities and some do not: connections may be secured, and then what
// their peer proves counts, or in clear text. The source need not have an identity yet; until then it serves clear text alone.
func EitherWay(source Source, id identity.ID) *Security {
	s := MutualTLS(source, id)
	s.optional = true
	return s
}

// eitherCredentials take a connection as it begins: with TLS, or without.
type eitherCredentials struct{ serverCredentials }

// recordHandshake is the first byte of a connection with TLS (RFC 8446, 5.1).
const recordHandshake = 22

// ServerHandshake implements [credentials.TransportCredentials].
func (c eitherCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn := &begun{Conn: raw, reader: bufio.NewReaderSize(raw, 512)}
	first, err := conn.reader.Peek(1)
	if err != nil {
		raw.Close()
		return nil, nil, errors.Join(errors.New("the connection ended before it began"), err)
	}
	if first[0] == recordHandshake {
		return c.serverCredentials.ServerHandshake(conn)
	}
	return conn, clearText{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}, nil
}

// Clone implements [credentials.TransportCredentials].
func (c eitherCredentials) Clone() credentials.TransportCredentials { return c }

// clearText says that nothing is known of the peer.
type clearText struct{ credentials.CommonAuthInfo }

// AuthType implements [credentials.AuthInfo].
func (clearText) AuthType() string { return "insecure" }

// begun is a connection whose first bytes have been looked at.
type begun struct {
	net.Conn
	reader *bufio.Reader
}

func (b *begun) Read(p []byte) (int, error) { return b.reader.Read(p) }
