package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// PEM block types.
const (
	blockCertificate = "CERTIFICATE"
	blockKey         = "PRIVATE KEY"
)

// parseCertificates reads the certificates of a PEM document. Text between the blocks is a comment; a block of another type is an error.
func parseCertificates(document []byte) ([]*x509.Certificate, error) {
	var found []*x509.Certificate
	for rest := document; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != blockCertificate {
			return nil, fmt.Errorf("it has a PEM block %q: only blocks CERTIFICATE belong here", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d cannot be read: %w", len(found)+1, err)
		}
		found = append(found, c)
	}
	if len(found) == 0 {
		return nil, errors.New("it has no PEM block CERTIFICATE")
	}
	return found, nil
}

// encodeCertificates is the PEM document of certificates, without comments.
func encodeCertificates(certificates ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range certificates {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: c.Raw}))
	}
	return out.Bytes()
}

// parseKey reads a private key: PKCS#8, SEC 1 or PKCS#1 (Ed25519, ECDSA, RSA).
func parseKey(document []byte) (crypto.Signer, error) {
	for rest := document; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		var key any
		var err error
		switch {
		case block == nil:
			return nil, errors.New("it has no PEM block with a private key")
		case block.Type == blockKey:
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case block.Type == "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case block.Type == "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case block.Type == "EC PARAMETERS": // what openssl writes before an EC key
			continue
		default:
			return nil, fmt.Errorf("it has a PEM block %q instead of a private key", block.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("the private key cannot be read: %w", err)
		}
		switch k := key.(type) {
		case ed25519.PrivateKey:
			return k, nil
		case *ecdsa.PrivateKey:
			return k, nil
		case *rsa.PrivateKey:
			return k, nil
		}
		return nil, fmt.Errorf("private keys of type %T are not supported: use Ed25519, ECDSA or RSA", key)
	}
}

// encodeKey is the PEM document of a private key.
func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der}), nil
}

// samePublicKey tells whether both are the same key.
func samePublicKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// fingerprint names a certificate: the SHA-256 of its DER form in hex.
func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
