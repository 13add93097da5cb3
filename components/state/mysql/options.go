package mysql

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/go-sql-driver/mysql"
	"outrigger.dev/components/mysqlclient"
	"outrigger.dev/components/state/sqlcleanup"
)

// Options are the metadata properties of the component.
type Options struct {
	ConnectionString  string        `name:"connectionString" aliases:"url" required:"true" secret:"true" help:"data source name without a database, such as user:password@tcp(localhost:3306)/?allowNativePasswords=true"`
	SchemaName        string        `name:"schemaName" default:"dapr_state_store" help:"database that holds the tables; it is made if missing"`
	TableName         string        `name:"tableName" default:"state" help:"table that holds the items"`
	MetadataTableName string        `name:"metadataTableName" default:"dapr_metadata" help:"table that holds the time of the last clean-up"`
	Timeout           time.Duration `name:"timeoutInSeconds" aliases:"timeout" default:"20" help:"bound of one operation on the database"`
	CleanupInterval   time.Duration `name:"cleanupInterval" aliases:"cleanupIntervalInSeconds" default:"1h" help:"how often to remove expired items; 0 never does"`

	mysqlclient.TLS
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

// Check refuses what the tables could not be found by, or the server not called with. It implements [components.Checker].
func (o *Options) Check() error {
	completed := *o
	if err := completed.complete(nil); err != nil {
		return err
	}
	_, err := completed.config(slog.New(slog.DiscardHandler))
	return err
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
	config, err := mysqlclient.Config("connectionString", o.ConnectionString, o.TLS, o.Timeout, log)
	if err != nil {
		return nil, err
	}
	if config.DBName != "" {
		return nil, fmt.Errorf("metadata property \"connectionString\" names the database %q: leave it out behind the slash and give it as \"schemaName\"", config.DBName)
	}
	return config, nil
}
