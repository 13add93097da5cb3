package postgresql

import (
	"time"

	"outrigger.dev/components/postgresclient"
	"outrigger.dev/components/state/sqlcleanup"
)

// Connection are the metadata properties that both versions of the component share.
type Connection struct {
	postgresclient.Options
	MetadataTableName string        `name:"metadataTableName" default:"dapr_metadata" help:"table that holds the level of the layout and the time of the last clean-up"`
	CleanupInterval   time.Duration `name:"cleanupInterval" aliases:"cleanupIntervalInSeconds" default:"1h" help:"how often to remove expired items; 0 never does"`
}

// check examines the properties, with the name of the table that the named one comes to.
func (c *Connection) check(property, table string) error {
	completed := *c
	if err := completed.complete(nil); err != nil {
		return err
	}
	if _, _, err := tables(property, table, completed.MetadataTableName); err != nil {
		return err
	}
	return c.Options.Check()
}

// complete fills in defaults of empty properties and checks the others.
func (c *Connection) complete(properties map[string]string) error {
	if c.MetadataTableName == "" {
		c.MetadataTableName = "dapr_metadata"
	}
	c.CleanupInterval = sqlcleanup.Interval(properties, c.CleanupInterval, time.Hour, "cleanupInterval", "cleanupIntervalInSeconds")
	return c.Complete()
}
