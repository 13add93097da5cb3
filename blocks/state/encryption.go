package state

import (
	"bytes"
	"crypto/aes"
	gocipher "crypto/cipher"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	stores "outrigger.dev/components/state"
	"outrigger.dev/jsontext"
)

// The metadata items that hold the keys; these names are case-sensitive (Dapr API, state: automatic encryption).
const (
	primaryKey   = "primaryEncryptionKey"
	secondaryKey = "secondaryEncryptionKey"
)

// cipher encrypts and decrypts the values of a store. What it stores is the base64 form of nonce, ciphertext and tag, the
// separator, and the name of the key.
type cipher struct {
	store string
	// keys begin with the primary one, which encrypts.
	keys []encryptionKey
}

type encryptionKey struct {
	// name is the name of the secret that holds the key.
	name string
	aead gocipher.AEAD
}

// newCipher makes the cipher of a store, nil if none is configured.
func newCipher(c Component, log *slog.Logger) (*cipher, error) {
	for item := range c.Properties {
		for _, right := range []string{primaryKey, secondaryKey} {
			if item != right && strings.EqualFold(item, right) {
				log.Warn("a metadata item looks like an encryption key but is ignored, for its name is case-sensitive", "component", c.Name, "item", item, "want", right)
			}
		}
	}
	_, primary := c.Properties[primaryKey]
	_, secondary := c.Properties[secondaryKey]
	if !primary {
		if secondary {
			return nil, fmt.Errorf("state store %s has the metadata item %s without %s, so it cannot write: add the key that is to encrypt new values", c.Name, secondaryKey, primaryKey)
		}
		return nil, nil
	}
	made := &cipher{store: c.Name}
	for _, item := range []string{primaryKey, secondaryKey} {
		text, given := c.Properties[item]
		if !given {
			continue
		}
		key, err := newEncryptionKey(text, c.SecretNames[item])
		if err != nil {
			return nil, fmt.Errorf("metadata item %s of state store %s %w", item, c.Name, err)
		}
		made.keys = append(made.keys, key)
	}
	log.Warn("values are encrypted; do not write more than about 4 billion times with the same primaryEncryptionKey", "component", c.Name)
	return made, nil
}

// newEncryptionKey checks a key. Its error goes on from the name of the metadata item, and does not show the key.
func newEncryptionKey(text, secret string) (encryptionKey, error) {
	switch {
	case secret == "":
		return encryptionKey{}, errors.New("is not given by secretKeyRef: every value is stored with the name of the secret that holds its key, so put the key into a secret store, name that in auth.secretStore, and refer to it by secretKeyRef")
	case strings.Contains(secret, separator):
		return encryptionKey{}, fmt.Errorf("refers to the secret %q, but the name of a key can't contain '%s': rename the secret", secret, separator)
	case text == "":
		return encryptionKey{}, fmt.Errorf("is empty: the secret %q has no such entry, or could not be read", secret)
	}
	key, err := hex.DecodeString(text)
	if err != nil {
		return encryptionKey{}, fmt.Errorf("(secret %q) is not hexadecimal text: make a key with `openssl rand -hex 32`", secret)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return encryptionKey{}, fmt.Errorf("(secret %q) is a key of %d bytes, but AES wants 16, 24 or 32 (twice as many hexadecimal digits): make one with `openssl rand -hex 32`", secret, len(key))
	}
	aead, err := gocipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return encryptionKey{}, fmt.Errorf("(secret %q): %w", secret, err)
	}
	return encryptionKey{name: secret, aead: aead}, nil
}

// encrypt returns what is stored for a value.
func (c *cipher) encrypt(value stores.Value) stores.Value {
	key := c.keys[0]
	sealed := key.aead.Seal(nil, nil, plaintext(value), nil)
	out := make([]byte, 0, base64.StdEncoding.EncodedLen(len(sealed))+len(separator)+len(key.name))
	out = base64.StdEncoding.AppendEncode(out, sealed)
	out = append(out, separator...)
	return stores.Value{Bytes: append(out, key.name...)}
}

// plaintext is what is encrypted of a value: the characters of a JSON string, anything else as it is.
func plaintext(value stores.Value) []byte {
	if value.JSON {
		if text, ok := jsontext.Unquote(value.Bytes); ok {
			return text
		}
	}
	return value.Bytes
}

// decrypt returns the value of stored data. Empty data is the empty value.
func (c *cipher) decrypt(stored []byte) ([]byte, error) {
	if len(stored) == 0 {
		return stored, nil
	}
	plain, err := c.open(stored)
	if err != nil {
		return nil, fmt.Errorf("could not decrypt data for state store %s: %w", c.store, err)
	}
	return plain, nil
}

func (c *cipher) open(stored []byte) ([]byte, error) {
	at := bytes.LastIndex(stored, []byte(separator))
	if at < 0 {
		return nil, errors.New("encryption key name not found on record: the value was stored without encryption; write it again, or read it through a component without encryption keys")
	}
	name := string(stored[at+len(separator):])
	var failure error
	for _, key := range c.keys {
		if key.name != name {
			continue
		}
		sealed, err := base64.StdEncoding.AppendDecode(make([]byte, 0, at), stored[:at])
		if err != nil {
			return nil, fmt.Errorf("the value is not base64 text (key %q): it is damaged, or was stored without encryption", name)
		}
		plain, err := key.aead.Open(nil, nil, sealed, nil)
		if err == nil {
			return plain, nil
		}
		failure = fmt.Errorf("the key of secret %q does not fit: the value is damaged, or the content of that secret was changed (rotate keys by a secret of another name)", name)
	}
	if failure != nil {
		return nil, failure
	}
	return nil, fmt.Errorf("the value was encrypted with the key of secret %q, but this store has %s: add that key as %s", name, c.names(), secondaryKey)
}

// names lists the names of the keys for messages.
func (c *cipher) names() string {
	quoted := make([]string, len(c.keys))
	for i, key := range c.keys {
		quoted[i] = fmt.Sprintf("%q", key.name)
	}
	return strings.Join(quoted, " and ")
}
