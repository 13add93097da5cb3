package kafkaclient

import (
	"strings"
	"testing"
)

// The URL of the schema registry may have a password, which no error shows.
func TestRegistryPasswordIsNotShown(t *testing.T) {
	for _, tc := range []struct {
		name, url string
		words     []string
	}{
		{"scheme", "ftp://user:geheim@registry", []string{"schemaRegistryURL", "ftp", "http://"}},
		{"escape", "http://user:geheim%zz@registry", []string{"schemaRegistryURL", "http://registry"}},
		{"without scheme", "user:geheim@registry", []string{"schemaRegistryURL"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := client(t, map[string]string{"brokers": "localhost:1", "schemaRegistryURL": tc.url})
			if expectError(t, err, tc.words...); err != nil && strings.Contains(err.Error(), "geheim") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
	t.Run("the password is used", func(t *testing.T) {
		s := newSchemas(t)
		c := mustClient(t, map[string]string{"brokers": "localhost:1", "schemaRegistryURL": strings.Replace(s.URL, "://", "://user:geheim@", 1)})
		_, _ = c.encode(within(t), "t", []byte("{}"))
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.login != "user:geheim" {
			t.Errorf("the registry got the login %q", s.login)
		}
	})
	t.Run("registry away", func(t *testing.T) {
		c := mustClient(t, map[string]string{"brokers": "localhost:1", "schemaRegistryURL": "http://user:geheim@127.0.0.1:1"})
		_, err := c.encode(within(t), "t", []byte("{}"))
		if expectError(t, err, "127.0.0.1:1", "refused"); err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("the error shows the password: %v", err)
		}
		_, err = c.decode(within(t), []byte{0, 0, 0, 0, 7, 1})
		if expectError(t, err, "127.0.0.1:1", "refused"); err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("the error shows the password: %v", err)
		}
	})
}
