package servers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// natsModule is the module of the server, whose main package is at its root.
const natsModule = "github.com/nats-io/nats-server/v2"

// natsUser is the user of a NATS server with [Password].
const natsUser = "tester"

// NATSServer is one NATS server process with JetStream.
type NATSServer struct {
	Server
	// User and Password are what clients must give under the option [Password]; empty without it.
	User, Password string
	// Token is what clients must give under the option [Token]; empty without it.
	Token string
	// JWT and Seed are the credentials of a user under the option [UserJWT]; empty without it.
	JWT, Seed string
	// TLS is what clients need under the options [TLS] and [MutualTLS]; nil without them.
	TLS *Certificates
}

// URL is where clients connect to, with the user and password if there are.
func (s *NATSServer) URL() string {
	u := url.URL{Scheme: "nats", Host: s.Addr}
	if s.TLS != nil {
		u.Scheme = "tls"
	}
	if s.User != "" {
		u.User = url.UserPassword(s.User, s.Password)
	}
	return u.String()
}

// Token makes NATS require this token.
func Token(token string) Option {
	return Option{"Token", kindNATS, func(o *options) { o.token = token }}
}

// UserJWT makes NATS require the decentralised credentials in [NATSServer.JWT] and [NATSServer.Seed].
func UserJWT() Option {
	return Option{"UserJWT", kindNATS, func(o *options) { o.userJWT = true }}
}

// NATS returns a running NATS server with JetStream. Tests that share it keep
// apart by the names of streams and subjects. The server is built from the
// module that go.mod names, once for all test binaries. What is acknowledged
// survives Kill, and with [Durable] also a power failure.
func NATS(tb testing.TB, opts ...Option) *NATSServer {
	tb.Helper()
	n := acquire(tb, kindNATS, opts, launchNATS)
	s := &NATSServer{Server: bind(tb, n.process), TLS: n.tls, Password: n.options.password, Token: n.options.token, JWT: n.jwt, Seed: n.seed}
	if s.Password != "" {
		s.User = natsUser
	}
	return s
}

// natsNode is one nats-server process.
type natsNode struct {
	process   *process
	options   options
	tls       *Certificates
	jwt, seed string
}

func (n *natsNode) processes() []*process { return []*process{n.process} }

func (n *natsNode) ready() error { return nil } // it answers, which is all there is

func launchNATS(dir string, o options) (*natsNode, error) {
	program, err := natsProgram()
	if err != nil {
		return nil, err
	}
	n := &natsNode{options: o}
	var files serverFiles
	if o.tls {
		if n.tls, files, err = makeCertificates(dir); err != nil {
			return nil, err
		}
	}
	settings := []setting{{"max_payload", "8MB"}}
	if o.userJWT {
		credentials, err := n.makeCredentials()
		if err != nil {
			return nil, fmt.Errorf("servers: NATS credentials: %w", err)
		}
		settings = append(settings, credentials...)
	}
	port, held, err := reservePort()
	if err != nil {
		return nil, err
	}
	n.process = &process{
		name: "NATS", command: program, dir: filepath.Join(dir, "nats"), port: port, held: held,
		stopSignal: syscall.SIGTERM, discardSignal: syscall.SIGKILL,
		ping: func(ctx context.Context) error { return pingNATS(ctx, port) },
	}
	sync := "2m"
	if o.durable {
		sync = "always"
	}
	settings = append(settings,
		setting{"listen", natsQuote(loopback(port))},
		setting{"server_name", natsQuote(fmt.Sprintf("test-%d", port))},
		setting{"jetstream", fmt.Sprintf("{store_dir: %s, sync_interval: %s}", natsQuote(filepath.Join(n.process.dir, "data")), sync)})
	if o.password != "" {
		settings = append(settings, setting{"authorization", fmt.Sprintf("{user: %s, password: %s}", natsUser, natsQuote(o.password))})
	}
	if o.token != "" {
		settings = append(settings, setting{"authorization", fmt.Sprintf("{token: %s}", natsQuote(o.token))})
	}
	if o.tls {
		settings = append(settings, setting{"tls", fmt.Sprintf("{cert_file: %s, key_file: %s, ca_file: %s, verify: %t}", natsQuote(files.cert), natsQuote(files.key), natsQuote(files.ca), o.mutualTLS)})
	}
	var text strings.Builder
	for _, s := range append(settings, o.settings...) {
		fmt.Fprintf(&text, "%s: %s\n", s.name, s.value)
	}
	config := filepath.Join(n.process.dir, "nats.conf")
	n.process.args = []string{"--config", config}
	err = os.Mkdir(n.process.dir, 0o755)
	if err == nil {
		err = os.WriteFile(config, []byte(text.String()), 0o600)
	}
	if err == nil {
		err = n.process.start()
	}
	if err != nil {
		n.process.discard()
		return nil, err
	}
	return n, nil
}

// pingNATS waits for the server's greeting, which comes before TLS and authentication, and after JetStream has recovered.
func pingNATS(ctx context.Context, port int) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", loopback(port))
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	line, err := bufio.NewReaderSize(conn, 4<<10).ReadString(' ')
	if err != nil {
		return err
	}
	if line != "INFO " {
		return final{fmt.Errorf("what listens on port %d greets with %q, so it is no NATS server", port, line)}
	}
	return nil
}

// natsProgram builds the server unless a test binary did so before: it lies beside the run directories, named after its version.
func natsProgram() (string, error) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		return "", &missingError{"the Go toolchain, which builds the NATS server,", "install Go and put it on the PATH"}
	}
	base, err := baseDir()
	if err != nil {
		return "", err
	}
	version, err := exec.Command(goTool, "list", "-m", "-f", "{{.Version}}", natsModule).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return "", fmt.Errorf("servers: version of %s: %w", natsModule, err)
	}
	program := filepath.Join(base, fmt.Sprintf("nats-server-%s-%s", strings.TrimSpace(string(version)), runtime.Version()))
	lock, err := lockFile(program+".lock", true)
	if err != nil {
		return "", err
	}
	defer lock.release()
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	aside := program + ".new"
	build := exec.Command(goTool, "build", "-o", aside, natsModule)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("servers: building the NATS server: %w\n%s", err, out)
	}
	return program, os.Rename(aside, program)
}

// makeCredentials makes an operator, an account with JetStream and a user of it, and returns the server's settings.
func (n *natsNode) makeCredentials() ([]setting, error) {
	operator, err1 := nkeys.CreateOperator()
	account, err2 := nkeys.CreateAccount()
	system, err3 := nkeys.CreateAccount()
	user, err4 := nkeys.CreateUser()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	public := func(k nkeys.KeyPair) string {
		text, _ := k.PublicKey() // a pair just made has one
		return text
	}
	operatorClaims := jwt.NewOperatorClaims(public(operator))
	operatorClaims.SystemAccount = public(system)
	operatorText, err1 := operatorClaims.Encode(operator)
	accountClaims := jwt.NewAccountClaims(public(account))
	accountClaims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit}
	accountText, err2 := accountClaims.Encode(operator)
	systemText, err3 := jwt.NewAccountClaims(public(system)).Encode(operator)
	userText, err4 := jwt.NewUserClaims(public(user)).Encode(account)
	seed, err5 := user.Seed()
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return nil, err
	}
	n.jwt, n.seed = userText, string(seed)
	return []setting{
		{"operator", natsQuote(operatorText)},
		{"system_account", public(system)},
		{"resolver", "MEMORY"},
		{"resolver_preload", fmt.Sprintf("{%s: %s, %s: %s}", public(account), natsQuote(accountText), public(system), natsQuote(systemText))},
	}, nil
}

// natsQuote writes a value as the server's configuration reads it back.
func natsQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
