package postgresclient

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/pkcs12"
)

// azureCertificate is a client's certificate, by whose key it logs in.
type azureCertificate struct {
	der []byte
	key *rsa.PrivateKey
}

// assertionLife is how long a signed assertion holds.
const assertionLife = 10 * time.Minute

// certificate reads the certificate that the properties give, nil if they give none.
func (a Azure) certificate() (*azureCertificate, error) {
	property, data := "azureCertificate", []byte(a.Certificate)
	switch {
	case a.Certificate == "" && a.CertFile == "":
		if a.CertPassword != "" {
			return nil, errors.New(`metadata property "azureCertificatePassword" needs "azureCertificate" or "azureCertificateFile" as well`)
		}
		return nil, nil
	case a.Certificate != "" && a.CertFile != "":
		return nil, errors.New(`metadata properties "azureCertificate" and "azureCertificateFile" are both given; keep one`)
	case a.ClientSecret != "":
		return nil, errors.New(`metadata properties "azureClientSecret" and "azureCertificate" are both given; keep one`)
	case a.TenantID == "" || a.ClientID == "":
		return nil, errors.New(`metadata properties "azureCertificate" and "azureCertificateFile" need "azureTenantId" and "azureClientId" as well`)
	case a.CertFile != "":
		var err error
		property = "azureCertificateFile"
		if data, err = os.ReadFile(a.CertFile); err != nil {
			return nil, fmt.Errorf("metadata property \"azureCertificateFile\": %w", err)
		}
	}
	c, err := parseAzureCertificate(data, a.CertPassword)
	if err != nil {
		return nil, fmt.Errorf("metadata property %q is no certificate with an RSA key, in PEM or PKCS #12: %w; \"openssl pkcs12 -in FILE -nodes\" makes PEM of PKCS #12", property, err)
	}
	return c, nil
}

func parseAzureCertificate(data []byte, password string) (*azureCertificate, error) {
	var blocks []*pem.Block
	if strings.Contains(string(data), "-----BEGIN ") {
		for {
			var b *pem.Block
			if b, data = pem.Decode(data); b == nil {
				break
			}
			blocks = append(blocks, b)
		}
	} else {
		if der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(data))); err == nil {
			data = der
		}
		var err error
		if blocks, err = pkcs12.ToPEM(data, password); err != nil {
			return nil, err
		}
	}
	var c azureCertificate
	var leaves []*x509.Certificate
	for _, b := range blocks {
		if b.Type == "CERTIFICATE" {
			leaf, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				return nil, err
			}
			leaves = append(leaves, leaf)
		} else if strings.HasSuffix(b.Type, "PRIVATE KEY") {
			// The same type name stands for both forms, depending on who wrote it.
			if key, err := x509.ParsePKCS1PrivateKey(b.Bytes); err == nil {
				c.key = key
			} else if key, err := x509.ParsePKCS8PrivateKey(b.Bytes); err != nil {
				return nil, fmt.Errorf("its key cannot be read: %w", err)
			} else if c.key, _ = key.(*rsa.PrivateKey); c.key == nil {
				return nil, fmt.Errorf("its key is a %T", key)
			}
		}
	}
	if c.key == nil {
		return nil, errors.New("it has no key")
	}
	for _, leaf := range leaves { // others are of authorities
		if public, ok := leaf.PublicKey.(*rsa.PublicKey); ok && public.Equal(&c.key.PublicKey) {
			c.der = leaf.Raw
			return &c, nil
		}
	}
	return nil, errors.New("it has no certificate for its key")
}

// assertion is a JWT that tells who the client is (Microsoft identity platform: application authentication certificate
// credentials).
func (c *azureCertificate) assertion(client, audience string, now time.Time) (string, error) {
	thumbprint := sha256.Sum256(c.der)
	part := func(v any) (string, error) {
		text, err := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(text), err
	}
	header, err := part(map[string]any{"alg": "PS256", "typ": "JWT", "x5t#S256": base64.RawURLEncoding.EncodeToString(thumbprint[:])})
	if err != nil {
		return "", err
	}
	claims, err := part(map[string]any{
		"aud": audience, "iss": client, "sub": client, "jti": uuid.NewString(), "nbf": now.Unix(), "iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256([]byte(header + "." + claims))
	signature, err := rsa.SignPSS(rand.Reader, c.key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	if err != nil {
		return "", fmt.Errorf("cannot sign with the key of azureCertificate: %w", err)
	}
	return header + "." + claims + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}
