package sftp

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// connectLimit bounds connecting and logging in.
const connectLimit = 15 * time.Second

// login is where to connect, and how both sides prove who they are.
type login struct {
	address string
	config  *ssh.ClientConfig
}

// login reads the options.
func (o *Options) login() (*login, error) {
	l := &login{config: &ssh.ClientConfig{User: o.Username, Timeout: connectLimit}}
	host, port, err := net.SplitHostPort(o.Address)
	if err != nil {
		host, port = strings.Trim(o.Address, "[]"), "22"
	}
	if host == "" || port == "" || strings.ContainsAny(host+port, "/@ []") {
		return nil, fmt.Errorf("metadata property \"address\" is %q, which is not host:port: write e.g. files.example.com:22", o.Address)
	}
	l.address = net.JoinHostPort(host, port)
	if o.PrivateKey != "" {
		signer, err := o.signer()
		if err != nil {
			return nil, err
		}
		l.config.Auth = append(l.config.Auth, ssh.PublicKeys(signer))
	} else if o.PrivateKeyPassphrase != "" {
		return nil, errors.New("metadata property \"privateKeyPassphrase\" is given without \"privateKey\": give both or neither")
	}
	if o.Password != "" {
		l.config.Auth = append(l.config.Auth, ssh.Password(o.Password), ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
			answers := make([]string, len(questions))
			for i := range answers {
				answers[i] = o.Password
			}
			return answers, nil
		}))
	}
	if len(l.config.Auth) == 0 {
		return nil, errors.New("metadata properties \"password\" and \"privateKey\" are both missing: give one of them")
	}
	return l, o.hostKeys(l)
}

func (o *Options) signer() (ssh.Signer, error) {
	text := []byte(o.PrivateKey)
	if !strings.Contains(o.PrivateKey, "-----BEGIN") {
		var err error
		if text, err = os.ReadFile(o.PrivateKey); err != nil {
			return nil, fmt.Errorf("metadata property \"privateKey\" is neither PEM nor a file that can be read: %w", errors.Unwrap(err))
		}
	}
	if o.PrivateKeyPassphrase != "" {
		signer, err := ssh.ParsePrivateKeyWithPassphrase(text, []byte(o.PrivateKeyPassphrase))
		if err != nil {
			return nil, fmt.Errorf("metadata property \"privateKey\" cannot be read with \"privateKeyPassphrase\": %w", err)
		}
		return signer, nil
	}
	signer, err := ssh.ParsePrivateKey(text)
	if _, encrypted := errors.AsType[*ssh.PassphraseMissingError](err); encrypted {
		return nil, errors.New("metadata property \"privateKey\" is encrypted: give its passphrase as \"privateKeyPassphrase\"")
	}
	if err != nil {
		return nil, fmt.Errorf("metadata property \"privateKey\" holds no private key in PEM: %w", err)
	}
	return signer, nil
}

// hostKeys sets which keys the server may have.
func (o *Options) hostKeys(l *login) error {
	if o.InsecureIgnoreHost {
		l.config.HostKeyCallback = ssh.InsecureIgnoreHostKey() // #nosec G106 -- the user's explicit choice
		return nil
	}
	var checks []ssh.HostKeyCallback
	var types []string
	if o.HostPublicKey != "" {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(o.HostPublicKey))
		if err != nil {
			return fmt.Errorf("metadata property \"hostPublicKey\" is %q, which is no public key: write it as ssh-keyscan does after the host, e.g. ssh-ed25519 AAAA...: %w", o.HostPublicKey, err)
		}
		checks, types = append(checks, ssh.FixedHostKey(key)), append(types, key.Type())
	}
	if o.KnownHostsFile != "" {
		check, err := knownhosts.New(o.KnownHostsFile)
		if err != nil {
			return fmt.Errorf("metadata property \"knownHostsFile\" is %q, which cannot be used: %w", o.KnownHostsFile, err)
		}
		known, err := knownTypes(check, l.address)
		if err != nil {
			return err
		}
		if len(known) == 0 && len(checks) == 0 {
			return fmt.Errorf("metadata property \"knownHostsFile\" is %q, which has no key of %s: add what ssh-keyscan says", o.KnownHostsFile, l.address)
		}
		checks, types = append(checks, check), append(types, known...)
	}
	if len(checks) == 0 {
		return errors.New("metadata properties \"hostPublicKey\" and \"knownHostsFile\" are both missing, so that any server could pass for the right one: give one of them")
	}
	l.config.HostKeyCallback = func(host string, remote net.Addr, key ssh.PublicKey) error {
		var err error
		for _, check := range checks {
			if err = check(host, remote, key); err == nil {
				return nil
			}
		}
		return fmt.Errorf("the server's key is %s %s, which is not the one in hostPublicKey or knownHostsFile: %w", key.Type(), ssh.FingerprintSHA256(key), err)
	}
	// The server is to show a key that can be checked, not another of its keys.
	for _, t := range types {
		if t == ssh.KeyAlgoRSA {
			l.config.HostKeyAlgorithms = append(l.config.HostKeyAlgorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		}
		l.config.HostKeyAlgorithms = append(l.config.HostKeyAlgorithms, t)
	}
	return nil
}

// knownTypes are the types of the keys that known hosts have for an address. There is no way to ask but with a wrong key.
func knownTypes(check ssh.HostKeyCallback, address string) ([]string, error) {
	wrong, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return nil, err
	}
	keyError, ok := errors.AsType[*knownhosts.KeyError](check(address, &net.TCPAddr{}, wrong))
	if !ok {
		return nil, nil
	}
	var types []string
	for _, known := range keyError.Want {
		types = append(types, known.Key.Type())
	}
	return types, nil
}

// connect opens a connection and logs in.
func (l *login) connect(ctx context.Context) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	client, err := func() (*ssh.Client, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.address)
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		c, channels, requests, err := ssh.NewClientConn(conn, l.address, l.config)
		if !stop() && err == nil {
			c.Close()
			err = ctx.Err()
		}
		if err != nil {
			conn.Close()
			return nil, err
		}
		return ssh.NewClient(c, channels, requests), nil
	}()
	if err == nil {
		return client, nil
	}
	cause := context.Cause(ctx)
	if errors.Is(err, os.ErrDeadlineExceeded) && cause == nil {
		cause = context.DeadlineExceeded // the network was a moment faster
	}
	if cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return nil, fmt.Errorf("sftp: cannot connect to %s as %s: %w", l.address, l.config.User, err)
}
