package sftp_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"outrigger.dev/test/servers"
)

// lock encrypts a private key, in a way that takes little time where there is ssh-keygen.
func lock(t testing.TB, key []byte, passphrase string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "locked")
	if err := os.WriteFile(file, key, 0o600); err != nil {
		t.Fatal(err)
	}
	if exec.Command("ssh-keygen", "-q", "-p", "-a", "1", "-P", "", "-N", passphrase, "-f", file).Run() == nil {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	raw, err := ssh.ParseRawPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(raw, "", []byte(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

func TestProofs(t *testing.T) {
	server := servers.SFTP(t)
	other := servers.SFTP(t, servers.Own())
	known := func(line string) string {
		file := filepath.Join(t.TempDir(), "known_hosts")
		if err := os.WriteFile(file, []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	host := fmt.Sprintf("[%s]:%d ", server.Host, server.Port)
	encrypted := lock(t, server.PrivateKey, "open sesame")
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, server.PrivateKey, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		more map[string]string
		want string
	}{
		{"hostPublicKey", nil, ""},
		{"knownHostsFile", map[string]string{"hostPublicKey": "", "knownHostsFile": known(host + server.HostKey)}, ""},
		{"known by its other name", map[string]string{"knownHostsFile": known(host + other.HostKey)}, ""},
		{"insecureIgnoreHostKey", map[string]string{"hostPublicKey": "", "insecureIgnoreHostKey": "true"}, ""},
		{"key in a file", map[string]string{"privateKey": keyFile}, ""},
		{"encrypted key", map[string]string{"privateKey": encrypted, "privateKeyPassphrase": "open sesame"}, ""},
		{"other server", map[string]string{"hostPublicKey": other.HostKey}, "which is not the one in hostPublicKey"},
		{"other known server", map[string]string{"hostPublicKey": "", "knownHostsFile": known(host + other.HostKey)}, "which is not the one in hostPublicKey or knownHostsFile"},
		{"unknown server", map[string]string{"hostPublicKey": "", "knownHostsFile": known("example.com " + server.HostKey)}, `"knownHostsFile"`},
		{"no known hosts", map[string]string{"hostPublicKey": "", "knownHostsFile": "/no/such/file"}, `"knownHostsFile" is "/no/such/file"`},
		{"no host key", map[string]string{"hostPublicKey": ""}, `"hostPublicKey" and "knownHostsFile"`},
		{"bad host key", map[string]string{"hostPublicKey": "abc"}, `"hostPublicKey" is "abc"`},
		{"nothing to log in with", map[string]string{"privateKey": ""}, `"password" and "privateKey"`},
		{"other user's key", map[string]string{"privateKey": string(other.PrivateKey)}, "unable to authenticate"},
		{"password not taken", map[string]string{"privateKey": "", "password": "guess"}, "unable to authenticate"},
		{"no key", map[string]string{"privateKey": "/no/such/file"}, `"privateKey"`},
		{"bad key", map[string]string{"privateKey": "-----BEGIN"}, `"privateKey"`},
		{"no passphrase", map[string]string{"privateKey": encrypted}, `"privateKeyPassphrase"`},
		{"wrong passphrase", map[string]string{"privateKey": encrypted, "privateKeyPassphrase": "wrong"}, `"privateKeyPassphrase"`},
		{"passphrase alone", map[string]string{"privateKey": "", "password": "x", "privateKeyPassphrase": "x"}, `"privateKeyPassphrase"`},
		{"address", map[string]string{"address": "sftp://host"}, `"address" is "sftp://host"`},
		{"root that is a file", map[string]string{"rootPath": "/etc/passwd"}, `"rootPath" is "/etc/passwd"`},
		{"root that cannot be", map[string]string{"rootPath": "/proc/files"}, `"rootPath" is "/proc/files"`},
		{"nobody there", map[string]string{"address": fmt.Sprintf("127.0.0.1:%d", servers.FreePort(t))}, "refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			own, _ := properties(t, server)
			for k, v := range test.more {
				own[k] = v
			}
			b, err := binding.Open(t, own)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want one with %s", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			must(t, b, "create", "file", "x")
		})
	}
}

// passwordServer is a server of our own, for OpenSSH's would want an account of this machine with a password.
func passwordServer(t testing.TB, interactive bool) (address, hostKey string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	check := func(user, password string) (*ssh.Permissions, error) {
		if user == "ann" && password == "s3:cr@t" {
			return nil, nil
		}
		return nil, errors.New("no")
	}
	config := &ssh.ServerConfig{}
	if interactive {
		config.KeyboardInteractiveCallback = func(c ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			answers, err := ask("", "", []string{"Password: "}, []bool{false})
			if err != nil || len(answers) != 1 {
				return nil, errors.New("no")
			}
			return check(c.User(), answers[0])
		}
	} else {
		config.PasswordCallback = func(c ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			return check(c.User(), string(password))
		}
	}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(conn, config) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String(), string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
}

func TestPassword(t *testing.T) {
	for _, interactive := range []bool{false, true} {
		for _, password := range []string{"s3:cr@t", "wrong"} {
			t.Run(fmt.Sprint("interactive ", interactive, " ", password), func(t *testing.T) {
				address, key := passwordServer(t, interactive)
				b, err := binding.Open(t, map[string]string{"address": address, "username": "ann", "password": password, "hostPublicKey": key, "rootPath": t.TempDir()})
				if password == "wrong" {
					if err == nil || !strings.Contains(err.Error(), "unable to authenticate") || strings.Contains(err.Error(), "wrong") {
						t.Errorf("error %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				must(t, b, "create", "file", "x")
				if got := must(t, b, "get", "file", ""); got != "x" {
					t.Errorf("got %q", got)
				}
			})
		}
	}
}
