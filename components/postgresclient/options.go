// Package postgresclient connects the components that use PostgreSQL: their common metadata properties and what these
// mean for a pool of connections.
package postgresclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Options are the metadata properties that the components share.
type Options struct {
	ConnectionString string `name:"connectionString" aliases:"url" secret:"true" help:"connection string of PostgreSQL: a URL, or keywords and values such as \"host=localhost user=postgres password=example port=5432 database=dapr\""`
	Host             string `name:"host" help:"name or address of the server, instead of that in connectionString"`
	HostAddr         string `name:"hostaddr" help:"IP address to connect to, while host is the name that the server's certificate must have"`
	Port             string `name:"port" help:"port of the server, instead of that in connectionString"`
	Database         string `name:"database" help:"name of the database, instead of that in connectionString"`
	User             string `name:"user" help:"name of the user, instead of that in connectionString"`
	Password         string `name:"password" secret:"true" help:"password of the user, instead of that in connectionString"`
	SSLRootCert      string `name:"sslRootCert" help:"file with the certificate authorities to trust, instead of that in connectionString"`

	Timeout               time.Duration `name:"timeout" aliases:"timeoutInSeconds" default:"20s" help:"bound of one operation on the database"`
	MaxConns              int           `name:"maxConns" default:"0" help:"most connections of the pool; below 2 the driver decides"`
	ConnectionMaxIdleTime time.Duration `name:"connectionMaxIdleTime" help:"time after which an unused connection is closed"`
	QueryExecMode         string        `name:"queryExecMode" allowed:"cache_statement,cache_describe,describe_exec,exec,simple_protocol" help:"how statements are sent; exec or simple_protocol suit poolers such as PgBouncer"`

	Azure
	AWS
}

// execMode is the driver's name of a queryExecMode.
func execMode(name string) pgx.QueryExecMode {
	switch strings.ToLower(name) {
	case "cache_describe":
		return pgx.QueryExecModeCacheDescribe
	case "describe_exec":
		return pgx.QueryExecModeDescribeExec
	case "exec":
		return pgx.QueryExecModeExec
	case "simple_protocol":
		return pgx.QueryExecModeSimpleProtocol
	default:
		return pgx.QueryExecModeCacheStatement
	}
}

// Complete fills in defaults of empty properties and checks the others.
func (c *Options) Complete() error {
	if c.Timeout == 0 {
		c.Timeout = 20 * time.Second
	}
	if c.Timeout < time.Second {
		return fmt.Errorf("metadata property \"timeout\" is %s, but must be at least 1s", c.Timeout)
	}
	if c.ConnectionString == "" && c.Host == "" && c.HostAddr == "" {
		return errors.New(`metadata property "connectionString" is required: give for example "host=localhost user=postgres password=example port=5432 database=dapr"`)
	}
	return nil
}

// Check refuses what no connection could be made with. It implements [components.Checker].
func (c *Options) Check() error {
	completed := *c
	if err := completed.Complete(); err != nil {
		return err
	}
	_, err := completed.parse()
	return err
}

// parse reads the connection string and the properties that go into it.
func (c *Options) parse() (*pgxpool.Config, error) {
	text, err := c.connectionString()
	if err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(text)
	if err != nil {
		// The driver hides the password in its message.
		return nil, fmt.Errorf("metadata property \"connectionString\" is not a PostgreSQL connection string: %w", err)
	}
	if c.HostAddr != "" && net.ParseIP(c.HostAddr) == nil {
		return nil, fmt.Errorf("metadata property \"hostaddr\" is %q, but must be an IP address", c.HostAddr)
	}
	return config, nil
}

// PoolConfig is the configuration of the pool of connections. iam says whether the component heeds useAWSIAM.
func (c *Options) PoolConfig(ctx context.Context, iam bool) (*pgxpool.Config, error) {
	config, err := c.parse()
	if err != nil {
		return nil, err
	}
	if c.HostAddr != "" {
		config.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) { return []string{c.HostAddr}, nil }
	}
	if c.MaxConns > 1 {
		config.MaxConns = int32(min(c.MaxConns, 1<<15))
	}
	if c.ConnectionMaxIdleTime > 0 {
		config.MaxConnIdleTime = c.ConnectionMaxIdleTime
	}
	if c.QueryExecMode != "" {
		config.ConnConfig.DefaultQueryExecMode = execMode(c.QueryExecMode)
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = c.Timeout
	}
	if _, named := config.ConnConfig.RuntimeParams["application_name"]; !named {
		config.ConnConfig.RuntimeParams["application_name"] = "dapr"
	}
	password, err := c.passwords(ctx, config.ConnConfig, iam)
	if err != nil {
		return nil, err
	}
	if password != nil {
		config.BeforeConnect = func(ctx context.Context, cc *pgx.ConnConfig) (err error) {
			cc.Password, err = password(ctx)
			return err
		}
	}
	return config, nil
}

// passwords returns the function that makes the password of each new connection, or nil for a fixed one.
func (c *Options) passwords(ctx context.Context, config *pgx.ConnConfig, iam bool) (func(ctx context.Context) (string, error), error) {
	switch {
	case c.UseAzureAD && c.UseAWSIAM:
		return nil, errors.New(`metadata properties "useAzureAD" and "useAWSIAM" are both true; choose one`)
	case c.UseAzureAD:
		return c.Azure.tokens(os.Getenv)
	case c.UseAWSIAM && iam:
		return c.AWS.tokens(ctx, config)
	default:
		return nil, nil
	}
}

// connectionString is the given one with the separate properties in place of its parts.
func (c *Options) connectionString() (string, error) {
	host := c.Host
	if host == "" && c.ConnectionString == "" {
		host = c.HostAddr
	}
	if strings.HasPrefix(c.ConnectionString, "postgres://") || strings.HasPrefix(c.ConnectionString, "postgresql://") {
		return c.overrideURL(host)
	}
	parts := []string{c.ConnectionString}
	for _, p := range []struct{ keyword, value string }{
		{"host", host}, {"port", c.Port}, {"database", c.Database}, {"user", c.User}, {"password", c.Password}, {"sslrootcert", c.SSLRootCert},
	} {
		if p.value != "" {
			parts = append(parts, p.keyword+"='"+strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(p.value)+"'")
		}
	}
	return strings.TrimSpace(strings.Join(parts, " ")), nil
}

func (c *Options) overrideURL(host string) (string, error) {
	if host == "" && c.Port == "" && c.Database == "" && c.User == "" && c.Password == "" && c.SSLRootCert == "" {
		return c.ConnectionString, nil
	}
	u, err := url.Parse(c.ConnectionString)
	if err != nil {
		// The parser's message would show the password.
		return "", errors.New(`metadata property "connectionString" is not a valid URL; special characters in its password must be percent-encoded`)
	}
	if host != "" || c.Port != "" {
		h, p := u.Hostname(), u.Port()
		if host != "" {
			h = host
		}
		if c.Port != "" {
			p = c.Port
		}
		if u.Host = h; strings.Contains(h, ":") {
			u.Host = "[" + h + "]"
		}
		if p != "" {
			u.Host = net.JoinHostPort(h, p)
		}
	}
	if c.Database != "" {
		u.Path = "/" + c.Database
	}
	if c.User != "" || c.Password != "" {
		user := u.User.Username()
		password, given := u.User.Password()
		if c.User != "" {
			user = c.User
		}
		if c.Password != "" {
			password, given = c.Password, true
		}
		u.User = url.User(user)
		if given {
			u.User = url.UserPassword(user, password)
		}
	}
	if c.SSLRootCert != "" {
		q := u.Query()
		q.Set("sslrootcert", c.SSLRootCert)
		u.RawQuery = q.Encode()
	}
	return u.String(), nil
}
