package smtp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"slices"
	"strings"
	"testing"

	"outrigger.dev/components/bindings"
	"outrigger.dev/components/bindings/bindingstest"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// binding is the type under test.
var binding = bindingstest.Type[*Binding]{Register: Register, Name: "smtp"}

func mustOpen(t testing.TB, server *servers.SMTPServer, properties map[string]string) *Binding {
	t.Helper()
	all := map[string]string{"host": "localhost", "port": fmt.Sprint(server.Port), "user": server.User, "password": server.Password}
	for k, v := range properties {
		all[k] = v
	}
	return binding.MustOpen(t, all)
}

func send(t testing.TB, b *Binding, data string, metadata map[string]string) error {
	response, err := b.Invoke(bindingstest.Within(t), bindings.Request{Operation: bindings.Create, Data: []byte(data), Metadata: metadata})
	if response != nil {
		t.Errorf("response %v", response)
	}
	return err
}

// read takes a mail apart.
func read(t testing.TB, m servers.Mail) (header mail.Header, body string) {
	t.Helper()
	msg, err := mail.ReadMessage(bytes.NewReader(m.Data))
	if err != nil {
		t.Fatal(err)
	}
	if encoding := msg.Header.Get("Content-Transfer-Encoding"); encoding != "quoted-printable" {
		t.Fatalf("encoding %s", encoding)
	}
	text, err := io.ReadAll(quotedprintable.NewReader(msg.Body))
	if err != nil {
		t.Fatal(err)
	}
	return msg.Header, strings.ReplaceAll(string(text), "\r\n", "\n")
}

func one(t testing.TB, server *servers.SMTPServer, recipient string) servers.Mail {
	t.Helper()
	mails := server.Mails(recipient)
	if len(mails) != 1 {
		t.Fatalf("%d mails for %s, want 1", len(mails), recipient)
	}
	return mails[0]
}

func TestMail(t *testing.T) {
	server := servers.SMTP(t)
	own := map[string]string{
		"emailFrom": "Component <component@example.com>", "emailTo": "to@example.com", "emailCC": "cc1@example.com; cc2@example.com",
		"emailBCC": "bcc@example.com", "subject": "Component's", "priority": "1",
	}
	for _, test := range []struct {
		name            string
		metadata        map[string]string
		data, body      string
		from, to, cc    string
		subject, urgent string
		envelope        []string
	}{
		{
			name: "of the component", data: `"<b>Grüße</b>\nand more"`, body: "<b>Grüße</b>\nand more",
			from: "component@example.com", to: "<to@example.com>", cc: "<cc1@example.com>, <cc2@example.com>", subject: "Component's", urgent: "1",
			envelope: []string{"to@example.com", "cc1@example.com", "cc2@example.com", "bcc@example.com"},
		},
		{
			name: "of the request", data: `{"a": 1}`, body: `{"a": 1}`,
			metadata: map[string]string{
				"emailFrom": "request@example.com", "emailTo": "a@example.com ;Bea <b@example.com>;", "emailCC": "c@example.com", "EmailBcc": "d@example.com",
				"subject": "Größe\r\nBcc: evil@example.com", "priority": " 5",
			},
			from: "request@example.com", to: `<a@example.com>, "Bea" <b@example.com>`, cc: "<c@example.com>", subject: "Größe\r\nBcc: evil@example.com", urgent: "5",
			envelope: []string{"a@example.com", "b@example.com", "c@example.com", "d@example.com"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := mustOpen(t, server, own)
			if err := send(t, b, test.data, test.metadata); err != nil {
				t.Fatal(err)
			}
			m := one(t, server, test.envelope[0])
			if m.From != test.from || !slices.Equal(m.To, test.envelope) {
				t.Errorf("envelope from %s to %v", m.From, m.To)
			}
			header, body := read(t, m)
			if strings.TrimSuffix(body, "\n") != test.body {
				t.Errorf("body %q, want %q", body, test.body)
			}
			subject, err := new(mime.WordDecoder).DecodeHeader(header.Get("Subject"))
			if err != nil || subject != test.subject {
				t.Errorf("subject %q, %v", subject, err)
			}
			if kind, parameters, err := mime.ParseMediaType(header.Get("Content-Type")); err != nil || kind != "text/html" || !strings.EqualFold(parameters["charset"], "utf-8") {
				t.Errorf("content type %s %v %v", kind, parameters, err)
			}
			for name, want := range map[string]string{"To": test.to, "Cc": test.cc, "Bcc": "", "X-Priority": test.urgent} {
				if got := header.Get(name); got != want {
					t.Errorf("%s: %s, want %s", name, got, want)
				}
			}
			if header.Get("Date") == "" || header.Get("Message-Id") == "" {
				t.Errorf("no date or id: %v", header)
			}
		})
	}
	if mails := server.Mails("evil@example.com"); len(mails) > 0 {
		t.Error("a subject has added a recipient")
	}
}

func TestLoginAndEncryption(t *testing.T) {
	plain := servers.SMTP(t, servers.Password("s3:cr@t"))
	secure := servers.SMTP(t, servers.Password("s3:cr@t"), servers.TLS())
	trusting := map[string]string{"skipTLSVerify": "true"}
	for _, test := range []struct {
		name       string
		server     *servers.SMTPServer
		implicit   bool
		properties map[string]string
		err        string
	}{
		{"password on this machine", plain, false, nil, ""},
		{"wrong password", plain, false, map[string]string{"password": "wrong"}, "535"},
		{"nobody", plain, false, map[string]string{"user": "", "password": ""}, "530"},
		{"STARTTLS", secure, false, trusting, ""},
		{"STARTTLS, certificate unknown", secure, false, nil, "certificate"},
		{"TLS", secure, true, trusting, ""},
		{"TLS, certificate unknown", secure, true, nil, "certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			to := strings.NewReplacer(" ", "-", ",", "").Replace(test.name) + "@example.com"
			properties := map[string]string{"emailFrom": "from@example.com", "emailTo": to, "subject": "s"}
			if test.implicit {
				properties["port"] = fmt.Sprint(test.server.TLSPort)
			}
			for k, v := range test.properties {
				properties[k] = v
			}
			b := mustOpen(t, test.server, properties)
			b.implicitTLS = test.implicit
			err := send(t, b, "x", nil)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || len(test.server.Mails(to)) > 0 {
					t.Errorf("error %v, want one with %s", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if m := one(t, test.server, to); m.User != test.server.User || m.TLS != (test.server.TLS != nil) {
				t.Errorf("logged in as %q, encrypted: %v", m.User, m.TLS)
			}
		})
	}
}

func TestRequestErrors(t *testing.T) {
	server := servers.SMTP(t)
	b := mustOpen(t, server, nil)
	good := map[string]string{"emailFrom": "a@example.com", "emailTo": "request-errors@example.com", "subject": "s"}
	for _, test := range []struct{ name, value, err string }{
		{"emailFrom", "", `"emailFrom"`},
		{"emailTo", " ; ", `"emailTo"`},
		{"subject", "", `"subject"`},
		{"priority", "high", `"priority" of the request is "high"`},
		{"priority", "6", `"priority" of the request is "6"`},
		{"emailFrom", "a@example.com;b@example.com", "one sender"},
		{"emailCC", "no address", `"emailCC" of the request is "no address"`},
		{"emailBCC", "refused@example.com", "550"},
	} {
		metadata := map[string]string{}
		for k, v := range good {
			metadata[k] = v
		}
		metadata[test.name] = test.value
		if err := send(t, b, "x", metadata); err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s %q: %v, want an error with %s", test.name, test.value, err, test.err)
		}
	}
	if n := len(server.Mails("request-errors@example.com")); n > 0 {
		t.Errorf("%d mails were sent", n)
	}
	if _, err := b.Invoke(bindingstest.Within(t), bindings.Request{Operation: "get"}); err == nil || !strings.Contains(err.Error(), `"get"`) {
		t.Errorf("get: %v", err)
	}
}

func TestMetadataErrors(t *testing.T) {
	for _, test := range []struct {
		properties map[string]string
		want       string
	}{
		{nil, `"host" is required`},
		{map[string]string{"host": "h", "port": "0"}, `"port" is 0`},
		{map[string]string{"host": "h", "port": "70000"}, `"port" is "70000"`},
		{map[string]string{"host": "h", "user": "u"}, `"user" and "password"`},
		{map[string]string{"host": "h", "priority": "0"}, `"priority" is 0`},
		{map[string]string{"host": "h", "emailCC": "a@example.com;b"}, `"emailCC"`},
		{map[string]string{"host": "h", "emailFrom": "a@example.com;b@example.com"}, "one sender"},
	} {
		if _, err := binding.Open(t, test.properties); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want an error with %s", test.properties, err, test.want)
		}
	}
}

// A server that does not answer holds up neither a cancelled request nor Close.
func TestSilentServer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, port, _ := net.SplitHostPort(silent.Addr().String())
	b := binding.MustOpen(t, map[string]string{"host": "127.0.0.1", "port": port, "emailFrom": "a@example.com", "emailTo": "b@example.com", "subject": "s"})
	ctx, cancel := context.WithCancel(bindingstest.Within(t))
	done := make(chan error, 1)
	invoke := func(ctx context.Context) {
		go func() {
			_, err := b.Invoke(ctx, bindings.Request{Operation: bindings.Create, Metadata: map[string]string{}})
			done <- err
		}()
		if conn, err := silent.Accept(); err != nil {
			t.Fatal(err)
		} else {
			t.Cleanup(func() { conn.Close() })
		}
	}
	invoke(ctx)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), port) {
		t.Errorf("cancelled: %v", err)
	}
	invoke(bindingstest.Within(t))
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err == nil {
		t.Error("no error")
	}
	if err := send(t, b, "x", nil); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after Close: %v", err)
	}
}
