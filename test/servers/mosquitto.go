package servers

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// webSocketGap is from Mosquitto's port to the one where it speaks WebSocket.
const webSocketGap = 1

// mosquittoUser is who the option [Password] is for.
const mosquittoUser = "outrigger"

// MosquittoServer is one Mosquitto MQTT broker.
type MosquittoServer struct {
	Server
	// WebSocketPort is where it speaks MQTT over WebSocket.
	WebSocketPort int
	// User and Password are what clients must give under the option [Password]; empty without it.
	User, Password string
	// TLS is what clients need under the options [TLS] and [MutualTLS]; nil without them.
	TLS *Certificates
}

// Mosquitto returns a running broker. It keeps sessions and messages over an orderly Stop. With [Durable] it also saves
// them after every change, which is soon after it answered, not before: Mosquitto has nothing stronger.
func Mosquitto(tb testing.TB, opts ...Option) *MosquittoServer {
	tb.Helper()
	n := acquire(tb, kindMosquitto, opts, launchMosquitto)
	s := &MosquittoServer{Server: bind(tb, n.process), WebSocketPort: n.process.port + webSocketGap, Password: n.password, TLS: n.tls}
	if n.password != "" {
		s.User = mosquittoUser
	}
	return s
}

type mosquittoNode struct {
	process  *process
	password string
	tls      *Certificates
}

func (n *mosquittoNode) processes() []*process { return []*process{n.process} }

func (n *mosquittoNode) ready() error { return nil } // it answers, which is all there is

func launchMosquitto(dir string, o options) (*mosquittoNode, error) {
	program, err := lookPath("mosquitto")
	if err != nil {
		return nil, &missingError{"Mosquitto", "apt-get install mosquitto"}
	}
	n := &mosquittoNode{password: o.password}
	var text strings.Builder
	set := func(name string, value any) { fmt.Fprintf(&text, "%s %v\n", name, value) }
	if os.Geteuid() == 0 {
		set("user", "root") // or it changes its account, and is not ended with the test binary
	}
	set("persistence", true)
	set("persistence_location", dir+"/")
	if o.durable {
		set("autosave_on_changes", true)
		set("autosave_interval", 1)
	}
	if o.password == "" {
		set("allow_anonymous", true)
	} else {
		file := filepath.Join(dir, "passwords")
		tool, err := lookPath("mosquitto_passwd")
		if err != nil {
			return nil, &missingError{"mosquitto_passwd", "apt-get install mosquitto"}
		}
		if err := runTool(nil, dir, tool, "-c", "-b", file, mosquittoUser, o.password); err != nil {
			return nil, err
		}
		set("allow_anonymous", false)
		set("password_file", file)
	}
	for _, s := range o.settings {
		set(s.name, s.value)
	}
	var files serverFiles
	if o.tls {
		if n.tls, files, err = makeCertificates(dir); err != nil {
			return nil, err
		}
	}
	port, held, err := reservePort(webSocketGap)
	if err != nil {
		return nil, err
	}
	n.process = &process{
		name: "Mosquitto", command: program, dir: dir, port: port, held: held,
		stopSignal: syscall.SIGTERM, discardSignal: syscall.SIGKILL, ping: n.ping,
	}
	for _, listener := range []struct {
		port     int
		protocol string
	}{{port, "mqtt"}, {port + webSocketGap, "websockets"}} {
		fmt.Fprintf(&text, "listener %d 127.0.0.1\nprotocol %s\n", listener.port, listener.protocol)
		if o.tls {
			set("cafile", files.ca)
			set("certfile", files.cert)
			set("keyfile", files.key)
			set("require_certificate", o.mutualTLS)
		}
	}
	config := filepath.Join(dir, "mosquitto.conf")
	n.process.args = []string{"-c", config}
	if err := os.WriteFile(config, []byte(text.String()), 0o600); err != nil {
		n.process.discard()
		return nil, fmt.Errorf("servers: %w", err)
	}
	if err := n.process.start(); err != nil {
		n.process.discard()
		return nil, err
	}
	return n, nil
}

// ping asks for a connection; also a refusal is an answer.
func (n *mosquittoNode) ping(ctx context.Context) error {
	var d interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = &net.Dialer{}
	if n.tls != nil {
		d = &tls.Dialer{Config: n.tls.client}
	}
	conn, err := d.DialContext(ctx, "tcp", loopback(n.process.port))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	// CONNECT of MQTT 3.1.1 with a clean session, no keep-alive limit to speak of, and the client id "ping".
	if _, err := conn.Write([]byte("\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04ping")); err != nil {
		return err
	}
	var answer [4]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if answer[0] != 0x20 {
		return fmt.Errorf("it answers with a packet of type %#x instead of CONNACK", answer[0])
	}
	return nil
}

// lookPath finds a program also where the PATH of an ordinary user does not lead.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}
