package awsauth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"outrigger.dev/identity"
)

// Identity gives the sidecar's current certificate with its chain and key.
type Identity func(ctx context.Context) (*tls.Certificate, error)

// FromSource gives the present certificate of a source.
func FromSource(source identity.Source) Identity {
	return func(context.Context) (*tls.Certificate, error) {
		svid, err := source.SVID()
		if err != nil {
			return nil, err
		}
		certificate := identity.Certificate(svid)
		return &certificate, nil
	}
}

// sessionLength is how long the credentials of IAM Roles Anywhere are asked for, and sessionTimeout the bound of asking.
const (
	sessionLength  = time.Hour
	sessionTimeout = 30 * time.Second
)

// rolesAnywhere gets credentials from IAM Roles Anywhere with the call CreateSession, signed with the identity's key.
type rolesAnywhere struct {
	options  *Options
	region   string
	endpoint string
	client   aws.HTTPClient
	identity Identity
	now      func() time.Time
}

func (o *Options) rolesAnywhere(client aws.HTTPClient, around Surroundings) (*rolesAnywhere, error) {
	if around.Identity == nil && o.identity != nil {
		around.Identity = FromSource(o.identity)
	}
	if around.Identity == nil {
		return nil, errors.New(`metadata property "trustAnchorArn" asks for IAM Roles Anywhere, which logs in with the sidecar's X.509 identity, but this sidecar has none: run it with mTLS (--enable-mtls), or use "assumeRoleArn" alone, "accessKey", or the environment's credentials`)
	}
	// It is known in its own region alone.
	parts := strings.Split(o.TrustAnchorARN, ":")
	if len(parts) < 6 || parts[3] == "" {
		return nil, fmt.Errorf("metadata property \"trustAnchorArn\" is %q, but must be like arn:aws:rolesanywhere:us-east-1:123456789012:trust-anchor/ID", o.TrustAnchorARN)
	}
	region := parts[3]
	r := &rolesAnywhere{options: o, region: region, endpoint: around.Endpoint, client: client, identity: around.Identity, now: around.Now}
	if r.endpoint == "" {
		domain := "amazonaws.com"
		if strings.HasPrefix(region, "cn-") {
			domain += ".cn"
		}
		r.endpoint = "https://rolesanywhere." + region + "." + domain
	}
	if r.now == nil {
		r.now = time.Now
	}
	return r, nil
}

// Retrieve asks for credentials.
func (r *rolesAnywhere) Retrieve(ctx context.Context) (aws.Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	own, err := r.identity(ctx)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("IAM Roles Anywhere: the sidecar's X.509 identity cannot be had: %w", err)
	}
	req, err := r.request(ctx, own)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("IAM Roles Anywhere: %w", err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("IAM Roles Anywhere: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("IAM Roles Anywhere: %w", err)
	}
	var reply struct {
		Message       string `json:"message"`
		CredentialSet []struct {
			Credentials struct {
				AccessKeyID     string    `json:"accessKeyId"`
				SecretAccessKey string    `json:"secretAccessKey"`
				SessionToken    string    `json:"sessionToken"`
				Expiration      time.Time `json:"expiration"`
			} `json:"credentials"`
		} `json:"credentialSet"`
	}
	err = json.Unmarshal(text, &reply)
	if err != nil || resp.StatusCode/100 != 2 || len(reply.CredentialSet) == 0 {
		return aws.Credentials{}, fmt.Errorf("IAM Roles Anywhere at %s gave no credentials but status %d: %s; check that the trust anchor knows the authority of the sidecar's certificate, and that profile and role allow it",
			req.URL.Host, resp.StatusCode, reply.Message)
	}
	c := reply.CredentialSet[0].Credentials
	return aws.Credentials{
		AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken,
		CanExpire: true, Expires: c.Expiration, Source: "IAMRolesAnywhere",
	}, nil
}

// request is a CreateSession call, signed as AWS signature version 4 is but with the certificate's key (AWS, IAM Roles
// Anywhere: signing process).
func (r *rolesAnywhere) request(ctx context.Context, own *tls.Certificate) (*http.Request, error) {
	if len(own.Certificate) == 0 {
		return nil, errors.New("the sidecar's X.509 identity has no certificate")
	}
	leaf, err := x509.ParseCertificate(own.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("the sidecar's X.509 identity: %w", err)
	}
	signer, ok := own.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the key of the sidecar's X.509 identity is of type %T, which cannot sign", own.PrivateKey)
	}
	var algorithm string
	switch signer.Public().(type) {
	case *ecdsa.PublicKey:
		algorithm = "AWS4-X509-ECDSA-SHA256"
	case *rsa.PublicKey:
		algorithm = "AWS4-X509-RSA-SHA256"
	default:
		return nil, fmt.Errorf("the key of the sidecar's X.509 identity is a %T, but IAM Roles Anywhere takes ECDSA and RSA only: set the sidecar's environment variable DAPR_IDENTITY_KEY_TYPE to ECDSA-P256 or RSA-2048, and let Sentry use an authority with such keys", signer.Public())
	}
	body, err := json.Marshal(map[string]any{"durationSeconds": int(sessionLength.Seconds())})
	if err != nil {
		return nil, err
	}
	query := url.Values{
		"profileArn":     {r.options.TrustProfileARN},
		"roleArn":        {r.options.AssumeRoleARN},
		"trustAnchorArn": {r.options.TrustAnchorARN},
	}
	canonicalQuery := strings.ReplaceAll(query.Encode(), "+", "%20")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.endpoint+"/sessions?"+canonicalQuery, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	now := r.now().UTC()
	at := now.Format("20060102T150405Z")
	chain := make([]string, 0, len(own.Certificate))
	for _, der := range own.Certificate[1:] {
		chain = append(chain, base64.StdEncoding.EncodeToString(der))
	}
	headers := [][2]string{ // sorted by name
		{"content-type", "application/json"},
		{"host", req.URL.Host},
		{"x-amz-date", at},
		{"x-amz-x509", base64.StdEncoding.EncodeToString(own.Certificate[0])},
	}
	if len(chain) > 0 {
		headers = append(headers, [2]string{"x-amz-x509-chain", strings.Join(chain, ",")})
	}
	var canonicalHeaders, names strings.Builder
	for i, h := range headers {
		canonicalHeaders.WriteString(h[0] + ":" + h[1] + "\n")
		if i > 0 {
			names.WriteByte(';')
		}
		names.WriteString(h[0])
		if h[0] != "host" {
			req.Header.Set(h[0], h[1])
		}
	}
	payload := sha256.Sum256(body)
	canonical := sha256.Sum256([]byte("POST\n/sessions\n" + canonicalQuery + "\n" + canonicalHeaders.String() + "\n" + names.String() + "\n" + hex.EncodeToString(payload[:])))
	scope := now.Format("20060102") + "/" + r.region + "/rolesanywhere/aws4_request"
	digest := sha256.Sum256([]byte(algorithm + "\n" + at + "\n" + scope + "\n" + hex.EncodeToString(canonical[:])))
	signature, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("the sidecar's X.509 identity cannot sign: %w", err)
	}
	req.Header.Set("Authorization", algorithm+" Credential="+leaf.SerialNumber.String()+"/"+scope+", SignedHeaders="+names.String()+", Signature="+hex.EncodeToString(signature))
	return req, nil
}
