package servers

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

// SFTPServer is one OpenSSH server that serves files. Who logs in needs a key: passwords would be those of the machine's
// accounts.
type SFTPServer struct {
	Server
	// User is the account that it serves.
	User string
	// PrivateKey is that of the user, PEM.
	PrivateKey []byte
	// HostKey is the server's public key as authorized_keys and known_hosts have it: type and base64.
	HostKey string
	// Root is a directory of this machine that the user can write to.
	Root string
}

// SFTP returns a running OpenSSH server. Tests that share it keep apart by directories below its root.
func SFTP(tb testing.TB, opts ...Option) *SFTPServer {
	tb.Helper()
	n := acquire(tb, kindSFTP, opts, launchSFTP)
	return &SFTPServer{Server: bind(tb, n.process), User: n.user, PrivateKey: n.privateKey, HostKey: n.hostKey, Root: n.root}
}

type sftpNode struct {
	process       *process
	user, hostKey string
	root          string
	privateKey    []byte
}

func (n *sftpNode) processes() []*process { return []*process{n.process} }

func (n *sftpNode) ready() error { return nil } // it answers, which is all there is

func launchSFTP(dir string, o options) (*sftpNode, error) {
	program, err := lookPath("sshd")
	if err != nil {
		return nil, &missingError{"OpenSSH (sshd)", "apt-get install openssh-server"}
	}
	// As root it would want directories outside of its own, and serve everything.
	as, err := unprivileged("nobody")
	if err != nil {
		return nil, err
	}
	n := &sftpNode{user: "nobody", root: filepath.Join(dir, "files")}
	if as == nil {
		self, err := user.Current()
		if err != nil {
			return nil, fmt.Errorf("servers: %w", err)
		}
		n.user = self.Username
	}
	hostPrivate, hostPublic, err := sshKey()
	if err != nil {
		return nil, err
	}
	userPrivate, userPublic, err := sshKey()
	if err != nil {
		return nil, err
	}
	n.privateKey, n.hostKey = userPrivate, hostPublic
	in := func(name string) string { return filepath.Join(dir, name) }
	config := []setting{
		{"ListenAddress", "127.0.0.1"},
		{"HostKey", in("host.key")},
		{"AuthorizedKeysFile", in("users.pub")},
		{"PidFile", "none"},
		{"StrictModes", "no"},
		{"UsePAM", "yes"}, // without it accounts that have no password count as locked
		{"PasswordAuthentication", "no"},
		{"KbdInteractiveAuthentication", "no"},
		{"Subsystem", "sftp internal-sftp"},
	}
	if penalizes(program) {
		config = append(config, setting{"PerSourcePenalties", "no"}) // or tests of wrong keys keep the others out
	}
	port, held, err := reservePort()
	if err != nil {
		return nil, err
	}
	n.process = &process{
		name: "OpenSSH", command: program, dir: dir, port: port, held: held, account: as,
		stopSignal: syscall.SIGTERM, discardSignal: syscall.SIGKILL, ping: n.ping,
	}
	var text strings.Builder
	fmt.Fprintf(&text, "Port %d\n", port)
	for _, s := range append(o.settings, config...) { // of settings given twice the first counts
		fmt.Fprintf(&text, "%s %s\n", s.name, s.value)
	}
	n.process.args = []string{"-D", "-e", "-f", in("sshd_config")}
	err = func() error {
		if err := os.Mkdir(n.root, 0o755); err != nil {
			return err
		}
		for _, path := range []string{dir, n.root} {
			if err := as.own(path); err != nil {
				return err
			}
		}
		for _, f := range []struct {
			name string
			text []byte
		}{{"host.key", hostPrivate}, {"users.pub", []byte(userPublic + "\n")}, {"sshd_config", []byte(text.String())}} {
			if err := os.WriteFile(in(f.name), f.text, 0o600); err != nil {
				return err
			}
			if err := as.own(in(f.name)); err != nil {
				return err
			}
		}
		return nil
	}()
	if err != nil {
		n.process.discard()
		return nil, fmt.Errorf("servers: %w", err)
	}
	if err := n.process.start(); err != nil {
		n.process.discard()
		return nil, err
	}
	return n, nil
}

// penalizes reports whether an sshd turns away, for a while, addresses that failed to log in, as it does from 9.8 on. Older
// ones do not know the setting.
func penalizes(sshd string) bool {
	text, _ := exec.Command(sshd, "-V").CombinedOutput() // an old one calls it a wrong option, but tells its version
	_, version, _ := strings.Cut(string(text), "OpenSSH_")
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 9 || major == 9 && minor >= 8
}

// sshKey makes a key: the private half PEM, the public half as authorized_keys has it.
func sshKey() (private []byte, public string, err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	block, err := ssh.MarshalPrivateKey(key, "test")
	if err != nil {
		return nil, "", err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, "", err
	}
	return pem.EncodeToMemory(block), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), nil
}

// ping waits for the line with which it greets.
func (n *sftpNode) ping(ctx context.Context) error { return greets(ctx, n.process.port, "SSH-") }

// greets connects, and reports whether what the server says first begins with a text.
func greets(ctx context.Context, port int, text string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", loopback(port))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	greeting := make([]byte, len(text))
	for got := 0; got < len(greeting); {
		k, err := conn.Read(greeting[got:])
		if err != nil {
			return err
		}
		got += k
	}
	if string(greeting) != text {
		return fmt.Errorf("it greets with %q instead of %q", greeting, text)
	}
	return nil
}
