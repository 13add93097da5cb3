// Package mysqlclient connects the components that use MySQL and MariaDB: it reads their connection string, with the
// certificate authorities that go with it.
package mysqlclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

// TLS are the metadata properties that say which certificate authorities to trust.
type TLS struct {
	PEMPath     string `name:"pemPath" help:"file with the certificate authorities to trust, when the connection string has tls=custom"`
	PEMContents string `name:"pemContents" help:"the certificate authorities themselves, in PEM, instead of pemPath"`
}

// roots are the authorities to trust, nil when none are named.
func (t TLS) roots() (*x509.CertPool, error) {
	pem, property, source := []byte(t.PEMContents), "pemContents", "it"
	switch {
	case t.PEMPath != "" && t.PEMContents != "":
		return nil, errors.New(`metadata properties "pemPath" and "pemContents" are both given; keep one`)
	case t.PEMPath != "":
		var err error
		if pem, err = os.ReadFile(t.PEMPath); err != nil {
			return nil, fmt.Errorf("metadata property \"pemPath\": %w", err)
		}
		property, source = "pemPath", t.PEMPath
	case t.PEMContents == "":
		return nil, nil
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("metadata property %q: %s has no certificate in PEM", property, source)
	}
	return roots, nil
}

// Config reads the data source name given as the named metadata property. Connecting is bounded by timeout unless the
// name has a bound of its own; the driver's messages go to log.
func Config(property, dsn string, authorities TLS, timeout time.Duration, log *slog.Logger) (*mysql.Config, error) {
	if dsn == "" {
		return nil, fmt.Errorf("metadata property %q is required: give for example \"user:password@tcp(localhost:3306)/\"", property)
	}
	text, custom := cutCustomTLS(dsn)
	config, err := mysql.ParseDSN(text)
	if err != nil {
		return nil, fmt.Errorf("metadata property %q is not a data source name such as \"user:password@tcp(localhost:3306)/\": %w", property, hideURL(err))
	}
	if config.Timeout == 0 {
		config.Timeout = timeout
	}
	config.Logger = driverLog{log}
	roots, err := authorities.roots()
	if err != nil {
		return nil, err
	}
	if roots != nil && !custom {
		log.Warn(fmt.Sprintf("the certificate authorities of \"pemPath\" or \"pemContents\" are not used: add tls=custom to the metadata property %q", property))
	}
	if custom {
		if roots == nil {
			return nil, fmt.Errorf("metadata property %q has tls=custom, which needs \"pemPath\" or \"pemContents\" with the certificate authorities to trust", property)
		}
		host := config.Addr
		if i := strings.LastIndexByte(host, ':'); i >= 0 {
			host = strings.Trim(host[:i], "[]")
		}
		config.TLS = &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS12}
	}
	return config, nil
}

// cutCustomTLS takes "tls=custom" out, which the driver would look up in a table of the whole process: the authorities are
// read for one component alone.
func cutCustomTLS(dsn string) (rest string, custom bool) {
	if !strings.Contains(dsn, "/") {
		return dsn + "/", false
	}
	slash := strings.LastIndexByte(dsn, '/')
	q := strings.IndexByte(dsn[slash:], '?')
	if q < 0 {
		return dsn, false
	}
	base, query := dsn[:slash+q], dsn[slash+q+1:]
	var kept []string
	for parameter := range strings.SplitSeq(query, "&") {
		if parameter == "tls=custom" {
			custom = true
		} else if parameter != "" {
			kept = append(kept, parameter)
		}
	}
	if len(kept) > 0 {
		base += "?" + strings.Join(kept, "&")
	}
	return base, custom
}

// hideURL keeps the connection string, which may have a password, out of a message.
func hideURL(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// driverLog passes the driver's messages, which are of connections that broke, to the component's log.
type driverLog struct{ log *slog.Logger }

func (l driverLog) Print(v ...any) {
	l.log.LogAttrs(context.Background(), slog.LevelDebug, "MySQL driver: "+fmt.Sprint(v...))
}
