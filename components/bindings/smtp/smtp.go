// Package smtp is the output binding bindings.smtp, which sends mail (Dapr API, bindings: SMTP).
package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/wneessen/go-mail"

	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
)

// Register adds bindings.smtp to r.
func Register(r *components.Registry) {
	bindings.Register(r, components.Info{
		Name:        "smtp",
		Version:     "v1",
		Status:      components.Alpha,
		Description: "Sends mail through an SMTP server.",
	}, func(_ context.Context, _ components.Instance, o Options) (*Binding, error) {
		return Open(o)
	})
}

// Options are the metadata of bindings.smtp.
type Options struct {
	Host          string `name:"host" required:"true" help:"name or address of the mail server"`
	Port          uint16 `name:"port" default:"587" help:"its port; on 465 the connection begins with TLS, on others it turns to TLS when the server offers that"`
	User          string `name:"user" help:"who logs in; without user and password nobody does"`
	Password      string `name:"password" secret:"true" help:"the password of user"`
	SkipTLSVerify bool   `name:"skipTLSVerify" help:"do not check the server's certificate"`
	EmailFrom     string `name:"emailFrom" help:"the sender, as an address or Name <address>; a request may give its own, and one of the two must"`
	EmailTo       string `name:"emailTo" help:"the recipients, separated by semicolons; a request may give its own, and one of the two must"`
	EmailCC       string `name:"emailCC" help:"recipients of copies, separated by semicolons; a request may give its own"`
	EmailBCC      string `name:"emailBCC" help:"recipients of copies that the others do not see, separated by semicolons; a request may give its own"`
	Subject       string `name:"subject" help:"the subject; a request may give its own, and one of the two must"`
	Priority      int    `name:"priority" default:"3" help:"what the header X-Priority says, from 1 to 5; a request may give its own"`
}

// Check refuses what no mail could be sent with. It implements [components.Checker].
func (o *Options) Check() error {
	switch {
	case o.Port == 0:
		return errors.New("metadata property \"port\" is 0, but must be from 1 to 65535")
	case (o.User == "") != (o.Password == ""):
		return errors.New("metadata properties \"user\" and \"password\" must be given together, or neither")
	}
	if err := checkPriority(o.Priority); err != nil {
		return fmt.Errorf("metadata property \"priority\" %w", err)
	}
	for _, p := range []struct{ name, value string }{{"emailFrom", o.EmailFrom}, {"emailTo", o.EmailTo}, {"emailCC", o.EmailCC}, {"emailBCC", o.EmailBCC}} {
		if list := addresses(p.value); len(list) == 0 {
			continue
		} else if err := mail.NewMsg().To(list...); err != nil {
			return fmt.Errorf("metadata property %q is %q, which has something that is no mail address: %w", p.name, p.value, err)
		} else if p.name == "emailFrom" && len(list) > 1 {
			return fmt.Errorf("metadata property \"emailFrom\" is %q, but a mail has one sender: give one address", p.value)
		}
	}
	return nil
}

// sendLimit bounds sending one mail, with connecting.
const sendLimit = time.Minute

// tlsPort is where connections begin with TLS.
const tlsPort = 465

// separator stands between addresses.
const separator = ";"

// Binding sends mail.
type Binding struct {
	options Options
	// implicitTLS is for tests, whose servers cannot have the port that says so.
	implicitTLS bool

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex // guards closed, and Add of calls before Wait
	closed bool
	calls  sync.WaitGroup
}

var _ bindings.Output = (*Binding)(nil)

// Open makes the binding. Each mail is sent on a connection of its own.
func Open(o Options) (*Binding, error) {
	b := &Binding{options: o}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b, nil
}

func checkPriority(n int) error {
	if n < 1 || n > 5 {
		return fmt.Errorf("is %d, but must be from 1 to 5", n)
	}
	return nil
}

// addresses cuts a list of addresses.
func addresses(list string) []string {
	var all []string
	for address := range strings.SplitSeq(list, separator) {
		if address = strings.TrimSpace(address); address != "" {
			all = append(all, address)
		}
	}
	return all
}

// Operations implements [bindings.Output].
func (*Binding) Operations() []string { return []string{bindings.Create} }

// Invoke sends a mail whose body is the data, as HTML. The metadata emailFrom, emailTo, emailCC, emailBCC, subject and
// priority of the request win over the component's. An error after the server has taken the mail is none.
func (b *Binding) Invoke(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	if req.Operation != bindings.Create {
		return nil, fmt.Errorf("smtp: the operation %q is not known: use %s", req.Operation, bindings.Create)
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, errors.New("smtp: component is closed")
	}
	b.calls.Add(1)
	b.mu.Unlock()
	defer b.calls.Done()
	msg, err := b.message(req)
	if err != nil {
		return nil, fmt.Errorf("smtp: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	if err := b.send(ctx, msg); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return nil, fmt.Errorf("smtp: the mail server at %s did not take the mail: %w", b.address(), err)
	}
	return nil, nil
}

// message makes the mail of a request.
func (b *Binding) message(req bindings.Request) (*mail.Msg, error) {
	o := b.options
	for name, value := range req.Metadata {
		if value == "" {
			continue
		}
		switch strings.ToLower(name) {
		case "emailfrom":
			o.EmailFrom = value
		case "emailto":
			o.EmailTo = value
		case "emailcc":
			o.EmailCC = value
		case "emailbcc":
			o.EmailBCC = value
		case "subject":
			o.Subject = value
		case "priority":
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil || checkPriority(n) != nil {
				return nil, &bindings.ParameterError{Name: "priority", Value: value, Remedy: "write a number from 1 to 5"}
			}
			o.Priority = n
		}
	}
	msg := mail.NewMsg()
	for _, field := range []struct {
		name, value string
		required    bool
		set         func(...string) error
	}{
		{"emailFrom", o.EmailFrom, true, func(from ...string) error {
			if len(from) != 1 {
				return errors.New("a mail has one sender")
			}
			return msg.From(from[0])
		}},
		{"emailTo", o.EmailTo, true, msg.To},
		{"emailCC", o.EmailCC, false, msg.Cc},
		{"emailBCC", o.EmailBCC, false, msg.Bcc},
	} {
		list := addresses(field.value)
		if len(list) == 0 {
			if field.required {
				return nil, missing(field.name)
			}
			continue
		}
		if err := field.set(list...); err != nil {
			return nil, &bindings.ParameterError{Name: field.name, Value: field.value, Remedy: err.Error()}
		}
	}
	if o.Subject == "" {
		return nil, missing("subject")
	}
	msg.Subject(o.Subject)
	msg.SetGenHeader(mail.HeaderXPriority, strconv.Itoa(o.Priority))
	msg.SetBodyString(mail.TypeTextHTML, string(bindings.Unquoted(req.Data)))
	return msg, nil
}

func missing(name string) error {
	return &bindings.ParameterError{Name: name, Remedy: "give it there, or as a metadata property of the component"}
}

// send takes a mail to the server.
func (b *Binding) send(ctx context.Context, msg *mail.Msg) error {
	config := &tls.Config{
		ServerName:         b.options.Host,
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: b.options.SkipTLSVerify, // #nosec G402 -- the user's explicit choice
	}
	// The library does not end with the context once it is connected, and leaves a connection open whose beginning failed.
	var dialed net.Conn
	defer func() {
		if dialed != nil {
			dialed.Close()
		}
	}()
	stop := func() bool { return true }
	defer func() { stop() }()
	dial := func(limited context.Context, network, address string) (conn net.Conn, err error) {
		if b.options.Port == tlsPort || b.implicitTLS {
			conn, err = (&tls.Dialer{Config: config}).DialContext(limited, network, address)
		} else {
			conn, err = (&net.Dialer{}).DialContext(limited, network, address)
		}
		if err == nil {
			dialed = conn
			stop = context.AfterFunc(ctx, func() { conn.Close() })
		}
		return conn, err
	}
	options := []mail.Option{
		mail.WithPort(int(b.options.Port)), mail.WithTimeout(sendLimit), mail.WithDialContextFunc(dial),
		mail.WithTLSConfig(config), mail.WithTLSPolicy(mail.TLSOpportunistic),
	}
	if b.options.User != "" {
		options = append(options, mail.WithUsername(b.options.User), mail.WithPassword(b.options.Password),
			// The last two refuse to send the password without encryption, except to this machine.
			mail.WithOpportunisticSMTPAuth(mail.SMTPAuthSCRAMSHA256, mail.SMTPAuthSCRAMSHA1, mail.SMTPAuthCramMD5, mail.SMTPAuthPlain, mail.SMTPAuthLogin))
	}
	client, err := mail.NewClient(b.options.Host, options...)
	if err != nil {
		return err
	}
	session, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return err
	}
	err = client.SendWithSMTPClient(session, msg)
	if msg.IsDelivered() {
		_ = client.CloseWithSMTPClient(session) // it has the mail: a failure here must not make the app send it again
		return nil
	}
	return err
}

func (b *Binding) address() string {
	return net.JoinHostPort(b.options.Host, strconv.Itoa(int(b.options.Port)))
}

// Close implements [bindings.Binding]. Mails that are being sent are given up.
func (b *Binding) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.calls.Wait()
	return nil
}
