package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strconv"
)

// migration is the number of migrations there are, kept in the row "migrations" of the metadata table.
const migration = 1

// migrate makes the tables unless they are there (Dapr API, state: storage layouts). Sidecars that start together wait for
// each other on the database's lock.
func (s *Store) migrate(c *conn) error {
	ctx := context.Background()
	if level, err := s.level(c); err == nil && level >= migration {
		return nil // most starts: not a single lock is taken
	}
	if s.location.readOnly {
		return fmt.Errorf("the database is opened read-only and has no table %q yet; open it for writing once", s.options.TableName)
	}
	if err := s.begin(ctx, c, "BEGIN EXCLUSIVE"); err != nil {
		return err
	}
	if err := s.migrateLocked(ctx, c); err != nil {
		_, _ = c.exec(ctx, "ROLLBACK", nil)
		return err
	}
	_, err := c.exec(ctx, "COMMIT", nil)
	return err
}

func (s *Store) migrateLocked(ctx context.Context, c *conn) error {
	if _, err := c.exec(ctx, `CREATE TABLE IF NOT EXISTS `+s.options.MetadataTableName+` (
	key text NOT NULL PRIMARY KEY,
	value text NOT NULL
)`, nil); err != nil {
		return err
	}
	level, err := s.level(c)
	if err != nil || level >= migration {
		return err
	}
	if _, err := c.exec(ctx, `CREATE TABLE IF NOT EXISTS `+s.options.TableName+` (
	key TEXT NOT NULL PRIMARY KEY,
	value TEXT NOT NULL,
	is_binary BOOLEAN NOT NULL,
	etag TEXT NOT NULL,
	expiration_time TIMESTAMP DEFAULT NULL,
	update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
)`, nil); err != nil {
		return err
	}
	_, err = c.exec(ctx, `INSERT INTO `+s.options.MetadataTableName+` (key, value) VALUES ('migrations', ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value`, args(strconv.Itoa(migration)))
	return err
}

// level is the number of migrations applied. It fails when there is no metadata table.
func (s *Store) level(c *conn) (level int, err error) {
	err = c.query(context.Background(), `SELECT value FROM `+s.options.MetadataTableName+` WHERE key = 'migrations'`, nil, func(columns []driver.Value) error {
		t, err := text(columns[0])
		if err != nil {
			return err
		}
		if level, err = strconv.Atoi(t); err != nil {
			return fmt.Errorf("row \"migrations\" of table %q holds %q instead of a number; restore it or use another metadataTableName", s.options.MetadataTableName, t)
		}
		return nil
	})
	return level, err
}
