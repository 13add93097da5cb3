package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/go-sql-driver/mysql"
)

// Error numbers of MySQL and MariaDB that are looked at.
const (
	numberDatabaseExists  = 1007
	numberTableExists     = 1050
	numberDuplicateColumn = 1060
	numberDuplicateKey    = 1061
	numberDeadlock        = 1213
)

// number is the server's number of an error, or 0.
func number(err error) uint16 {
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		return e.Number
	}
	return 0
}

// makeSchema makes the database unless it is there. Asking first spares users without the right to make one.
func (s *Store) makeSchema(ctx context.Context, db *sql.DB) error {
	var n int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = ?", s.options.SchemaName).Scan(&n); err != nil || n > 0 {
		return err
	}
	_, err := db.ExecContext(ctx, "CREATE DATABASE IF NOT EXISTS `"+s.options.SchemaName+"` CHARACTER SET utf8mb4")
	if number(err) == numberDatabaseExists {
		return nil
	}
	return err
}

// migrate makes the tables and the columns and indexes that older ones lack (Dapr API, state: storage layouts). Sidecars
// that start together may each find something to do; what another has done meanwhile is no error.
func (s *Store) migrate(ctx context.Context, db *sql.DB) error {
	columns, err := s.names(ctx, db, "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?")
	if err != nil {
		return err
	}
	// The tables take the character set of the database, unless it cannot hold all keys.
	var charset string
	if err := db.QueryRowContext(ctx, "SELECT @@character_set_database").Scan(&charset); err != nil {
		return err
	}
	if charset == "utf8mb4" {
		charset = ""
	} else {
		charset = " DEFAULT CHARACTER SET utf8mb4"
	}
	var statements []string
	table := "`" + s.options.TableName + "`"
	switch {
	case len(columns) == 0:
		statements = append(statements, "CREATE TABLE IF NOT EXISTS "+table+` (
	id VARCHAR(255) NOT NULL PRIMARY KEY,
	value JSON NOT NULL,
	isbinary BOOLEAN NOT NULL,
	insertDate TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
	updateDate TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
	eTag VARCHAR(36) NOT NULL,
	expiredate TIMESTAMP NULL DEFAULT NULL,
	row_id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
	UNIQUE KEY row_id_uidx (row_id),
	KEY expiredate_idx (expiredate)
)`+charset)
	default:
		if !columns["expiredate"] {
			statements = append(statements,
				"ALTER TABLE "+table+" ADD COLUMN expiredate TIMESTAMP NULL DEFAULT NULL",
				"CREATE INDEX expiredate_idx ON "+table+" (expiredate)")
		}
		if !columns["row_id"] {
			statements = append(statements, "ALTER TABLE "+table+" ADD COLUMN row_id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT, ADD UNIQUE KEY row_id_uidx (row_id)")
		}
	}
	statements = append(statements, "CREATE TABLE IF NOT EXISTS `"+s.options.MetadataTableName+"` (id VARCHAR(255) NOT NULL PRIMARY KEY, value TEXT NOT NULL)"+charset)
	for _, statement := range statements {
		switch _, err := db.ExecContext(ctx, statement); number(err) {
		case numberTableExists, numberDuplicateColumn, numberDuplicateKey:
		default:
			if err != nil {
				return fmt.Errorf("%w, in: %s", err, statement)
			}
		}
	}
	return nil
}

func (s *Store) names(ctx context.Context, db *sql.DB, query string) (map[string]bool, error) {
	rows, err := db.QueryContext(ctx, query, s.options.SchemaName, s.options.TableName)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names := map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names[name] = true
	}
	return names, rows.Err()
}
