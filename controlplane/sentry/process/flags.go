package process

import (
	"io"
	"time"

	"github.com/spf13/pflag"

	"outrigger.dev/controlplane/internal/program"
	"outrigger.dev/controlplane/sentry/ca"
)

// flags are the values of the command line (Dapr API, Sentry: flags).
type flags struct {
	set *pflag.FlagSet

	mode, config, kubeconfig, trustDomain    string
	listenAddress                            string
	port                                     int
	credentials                              string
	caFile, certificateFile, keyFile         string
	jwtEnabled                               bool
	jwtKeyFile, jwksFile                     string
	jwtIssuer, jwtKeyID, jwtAlgorithm        string
	jwtTTL                                   time.Duration
	oidcEnabled, oidcTLS                     bool
	oidcAddress                              string
	oidcPort                                 int
	oidcCert, oidcKey, oidcJWKSURI, oidcPath string
	oidcHosts                                []string
	rootTTL, issuerTTL                       time.Duration
	selfRenewing                             bool
	common                                   program.Common
}

// newFlags declares all flags.
func newFlags(stderr io.Writer) *flags {
	f := &flags{set: program.NewFlags("sentry", stderr)}
	s := f.set

	s.StringVar(&f.mode, "mode", program.ModeStandalone, "Where sentry runs: standalone or kubernetes")
	s.StringVar(&f.config, "config", defaultConfig, "The Configuration: its name in kubernetes mode, else the path of a file")
	s.StringVar(&f.kubeconfig, "kubeconfig", "", "Path of a kubeconfig file; empty for the service account of the pod")
	s.StringVar(&f.trustDomain, "trust-domain", "localhost", "The trust domain of the control plane")
	s.StringVar(&f.listenAddress, "listen-address", "", "The address of the gRPC port; empty for all")
	s.IntVar(&f.port, "port", 50001, "The gRPC port")

	s.StringVar(&f.credentials, "issuer-credentials", "/var/run/secrets/dapr.io/credentials", "The directory of the credentials")
	s.StringVar(&f.caFile, "issuer-ca-filename", ca.AnchorsName, "The file of the trust anchors, in the directory of the credentials or absolute")
	s.StringVar(&f.certificateFile, "issuer-certificate-filename", ca.IssuerName, "The file of the issuer's certificate chain")
	s.StringVar(&f.keyFile, "issuer-key-filename", ca.IssuerKeyName, "The file of the issuer's private key")
	s.DurationVar(&f.rootTTL, "root-ttl", ca.DefaultRootTTL, "How long a generated root is valid")
	s.DurationVar(&f.issuerTTL, "issuer-ttl", ca.DefaultIssuerTTL, "How long a generated issuer is valid")
	s.BoolVar(&f.selfRenewing, "self-renewing", true, "Renew generated roots and issuers before they expire; provided ones are never touched")

	s.BoolVar(&f.jwtEnabled, "jwt-enabled", false, "Issue JWT-SVIDs")
	s.StringVar(&f.jwtKeyFile, "jwt-key-filename", ca.JWTKeyName, "The file of the private key that signs JWTs")
	s.StringVar(&f.jwksFile, "jwks-filename", ca.JWKSName, "The file of the key set that verifies JWTs")
	s.StringVar(&f.jwtIssuer, "jwt-issuer", "", "The issuer of JWTs, claim iss; empty for none")
	s.StringVar(&f.jwtKeyID, "jwt-key-id", "", "The id of the key in the key set; empty to find it by the key")
	s.StringVar(&f.jwtAlgorithm, "jwt-signing-algorithm", "RS256", "The signature algorithm of JWTs: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or EdDSA")
	s.DurationVar(&f.jwtTTL, "jwt-ttl", ca.DefaultJWTTTL, "How long a JWT is valid")

	s.BoolVar(&f.oidcEnabled, "oidc-enabled", false, "Serve OpenID Connect discovery and the key set; needs --jwt-enabled")
	s.StringVar(&f.oidcAddress, "oidc-server-listen-address", "localhost", "The address of the OIDC port")
	s.IntVar(&f.oidcPort, "oidc-server-listen-port", 9080, "The OIDC port")
	s.BoolVar(&f.oidcTLS, "oidc-server-tls-enabled", true, "Serve OIDC by TLS")
	s.StringVar(&f.oidcCert, "oidc-server-tls-cert-file", "", "The file of the OIDC server's certificate")
	s.StringVar(&f.oidcKey, "oidc-server-tls-key-file", "", "The file of the OIDC server's private key")
	s.StringVar(&f.oidcJWKSURI, "oidc-jwks-uri", "", "Where the key set is found, if not at this server")
	s.StringVar(&f.oidcPath, "oidc-path-prefix", "", "What comes before the paths of the OIDC server")
	s.StringSliceVar(&f.oidcHosts, "oidc-allowed-hosts", nil, "The hosts that the OIDC server answers for; empty or * for all")

	f.common.Declare(s)
	return f
}
