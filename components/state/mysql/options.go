package mysql

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
	"outrigger.dev/components/state/sqlcleanup"
)

// Options are the metadata properties of the component.
type Options struct {
	ConnectionString  string        `name:"connectionString" aliases:"url" required:"true" secret:"true" help:"data source name without a database, such as user:password@tcp(localhost:3306)/?allowNativePasswords=true"`
	SchemaName        string        `name:"schemaName" default:"dapr_state_store" help:"database that holds the tables; it is made if missing"`
	TableName         string        `name:"tableName" default:"state" help:"table that holds the items"`
	MetadataTableName string        `name:"metadataTableName" default:"dapr_metadata" help:"table that holds the time of the last clean-up"`
	Timeout           time.Duration `name:"timeoutInSeconds" aliases:"timeout" default:"20" help:"bound of one operation on the database"`
	PEMPath           string        `name:"pemPath" help:"file with the certificate authorities to trust, when the connection string has tls=custom"`
	CleanupInterval   time.Duration `name:"cleanupInterval" aliases:"cleanupIntervalInSeconds" default:"1h" help:"how often to remove expired items; 0 never does"`
}

// complete fills in defaults of empty properties and checks the others.
func (o *Options) complete(properties map[string]string) error {
	for _, n := range []struct {
		property  string
		name      *string
		byDefault string
	}{
		{"schemaName", &o.SchemaName, "dapr_state_store"},
		{"tableName", &o.TableName, "state"},
		{"metadataTableName", &o.MetadataTableName, "dapr_metadata"},
	} {
		if *n.name == "" {
			*n.name = n.byDefault
		}
		if !identifier(*n.name) {
			return fmt.Errorf("metadata property %q is %q, but may only have letters, digits and underscores", n.property, *n.name)
		}
	}
	if o.Timeout == 0 {
		o.Timeout = 20 * time.Second
	}
	if o.Timeout < time.Second {
		return fmt.Errorf("metadata property \"timeoutInSeconds\" is %s, but must be at least 1s", o.Timeout)
	}
	o.CleanupInterval = sqlcleanup.Interval(properties, o.CleanupInterval, time.Hour, "cleanupInterval", "cleanupIntervalInSeconds")
	return nil
}

// identifier reports whether name can stand between backquotes in SQL text as it is.
func identifier(name string) bool {
	for _, r := range name {
		if r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return false
		}
	}
	return name != ""
}

// config reads the connection string; its database is left empty.
func (o *Options) config(log *slog.Logger) (*mysql.Config, error) {
	text := o.ConnectionString
	if text == "" {
		return nil, errors.New(`metadata property "connectionString" is required: give for example "user:password@tcp(localhost:3306)/"`)
	}
	// The driver looks "tls=custom" up in a table of the whole process; it is taken out here and its file read for this
	// store alone.
	custom := false
	if !strings.Contains(text, "/") {
		text += "/"
	}
	slash := strings.LastIndexByte(text, '/')
	if q := strings.IndexByte(text[slash:], '?'); q >= 0 {
		base, query := text[:slash+q], text[slash+q+1:]
		var kept []string
		for parameter := range strings.SplitSeq(query, "&") {
			if parameter == "tls=custom" {
				custom = true
			} else if parameter != "" {
				kept = append(kept, parameter)
			}
		}
		if text = base; len(kept) > 0 {
			text += "?" + strings.Join(kept, "&")
		}
	}
	config, err := mysql.ParseDSN(text)
	if err != nil {
		return nil, fmt.Errorf("metadata property \"connectionString\" is not a data source name such as \"user:password@tcp(localhost:3306)/\": %w", hideURL(err))
	}
	if config.DBName != "" {
		return nil, fmt.Errorf("metadata property \"connectionString\" names the database %q: leave it out behind the slash and give it as \"schemaName\"", config.DBName)
	}
	if config.Timeout == 0 {
		config.Timeout = o.Timeout
	}
	config.Logger = driverLog{log}
	var roots *x509.CertPool
	if o.PEMPath != "" {
		pem, err := os.ReadFile(o.PEMPath)
		if err != nil {
			return nil, fmt.Errorf("metadata property \"pemPath\": %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("metadata property \"pemPath\": %s has no certificate in PEM", o.PEMPath)
		}
	}
	if custom {
		if roots == nil {
			return nil, errors.New(`metadata property "connectionString" has tls=custom, which needs "pemPath" with the certificate authorities to trust`)
		}
		host := config.Addr
		if i := strings.LastIndexByte(host, ':'); i >= 0 {
			host = strings.Trim(host[:i], "[]")
		}
		config.TLS = &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS12}
	}
	return config, nil
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
