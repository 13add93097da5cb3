package servers

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// smtpProgram serves with Python's aiosmtpd and puts what it receives into files.
//
//go:embed smtp.py
var smtpProgram []byte

// tlsGap is from the SMTP server's port to the one where it speaks TLS from the first byte.
const tlsGap = 1

// smtpUser is who the option [Password] is for.
const smtpUser = "outrigger"

// SMTPServer is one mail server. It takes all mail, but for recipients whose address begins with "refused".
type SMTPServer struct {
	Server
	// TLSPort is where it speaks TLS from the first byte, under the option [TLS]; 0 without it.
	TLSPort int
	// User and Password are what clients must give under the option [Password]; empty without it.
	User, Password string
	// TLS is what clients need under the option [TLS], with which it offers STARTTLS; nil without it.
	TLS *Certificates

	mails string
}

// Mail is a message that the server took.
type Mail struct {
	// From and To are those of the envelope.
	From string
	To   []string
	// Data is the message with its header.
	Data []byte
	// User is who was logged in, and TLS whether the connection was encrypted.
	User string
	TLS  bool
}

// SMTP returns a running mail server. Tests that share it keep apart by addresses.
func SMTP(tb testing.TB, opts ...Option) *SMTPServer {
	tb.Helper()
	n := acquire(tb, kindSMTP, opts, launchSMTP)
	s := &SMTPServer{Server: bind(tb, n.process), Password: n.password, TLS: n.tls, mails: n.mails}
	if n.password != "" {
		s.User = smtpUser
	}
	if n.tls != nil {
		s.TLSPort = s.Port + tlsGap
	}
	return s
}

// Mails are the messages that it has taken for a recipient, oldest first. They are there when the client is told so.
func (s *SMTPServer) Mails(recipient string) []Mail {
	s.tb.Helper()
	files, err := filepath.Glob(filepath.Join(s.mails, "*.json"))
	s.check(err)
	var found []Mail
	for _, file := range files { // sorted
		text, err := os.ReadFile(file)
		s.check(err)
		var m Mail
		s.check(json.Unmarshal(text, &m))
		for _, to := range m.To {
			if to == recipient {
				found = append(found, m)
				break
			}
		}
	}
	return found
}

type smtpNode struct {
	process  *process
	password string
	tls      *Certificates
	mails    string
}

func (n *smtpNode) processes() []*process { return []*process{n.process} }

func (n *smtpNode) ready() error { return nil } // it answers, which is all there is

func launchSMTP(dir string, o options) (*smtpNode, error) {
	python, err := pythonWith("aiosmtpd")
	if err != nil {
		return nil, err
	}
	n := &smtpNode{password: o.password, mails: filepath.Join(dir, "mails")}
	config := map[string]any{"mails": n.mails}
	if o.password != "" {
		config["user"], config["password"] = smtpUser, o.password
	}
	if o.tls {
		var files serverFiles
		if n.tls, files, err = makeCertificates(dir); err != nil {
			return nil, err
		}
		config["cert"], config["key"] = files.cert, files.key
	}
	port, held, err := reservePort(tlsGap)
	if err != nil {
		return nil, err
	}
	config["port"], config["tlsPort"] = port, port+tlsGap
	program, settings := filepath.Join(dir, "smtp.py"), filepath.Join(dir, "config.json")
	n.process = &process{
		name: "aiosmtpd", command: python, args: []string{program, settings}, dir: dir, port: port, held: held,
		stopSignal: syscall.SIGTERM, discardSignal: syscall.SIGKILL,
		ping: func(ctx context.Context) error { return greets(ctx, port, "220 ") },
	}
	err = func() error {
		if err := os.Mkdir(n.mails, 0o755); err != nil {
			return err
		}
		text, err := json.Marshal(config)
		if err != nil {
			return err
		}
		if err := os.WriteFile(settings, text, 0o600); err != nil {
			return err
		}
		return os.WriteFile(program, smtpProgram, 0o600)
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

// pythonWith is a Python that has a module: the one of the PATH, or the system's.
func pythonWith(module string) (string, error) {
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if path, err := exec.LookPath(name); err == nil && runTool(nil, "", path, "-c", "import "+module) == nil {
			return path, nil
		}
	}
	return "", &missingError{"Python's " + module, "apt-get install python3-" + module}
}
