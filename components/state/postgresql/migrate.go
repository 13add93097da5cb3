package postgresql

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// migrationLimit bounds a migration, with the wait for other sidecars that migrate.
const migrationLimit = time.Minute

// Error codes of PostgreSQL that are looked at.
const (
	codeUniqueViolation = "23505"
	codeDuplicateTable  = "42P07"
	codeDuplicateObject = "42710"
	codeUndefinedTable  = "42P01"
	codeDeadlock        = "40P01"
	codeSerialization   = "40001"
	codeShutdown        = "57P01"
)

// code is PostgreSQL's code of an error, or "".
func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// migrate makes the tables, or brings older ones up to date (Dapr API, state: storage layouts). Sidecars that start together
// wait for each other on the row "lock" of the metadata table.
func (s *Store) migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, migrationLimit)
	defer cancel()
	l := s.layout
	switch level, err := s.level(ctx, s.pool); {
	case err == nil && level >= len(l.migrations):
		return nil // most starts
	case err != nil && code(err) != codeUndefinedTable:
		return err
	}
	if err := s.makeMetadataTable(ctx); err != nil {
		return err
	}
	if _, err := s.pool.Exec(ctx, `INSERT INTO `+l.metadata.quoted+` (key, value) VALUES ('lock', 'lock') ON CONFLICT (key) DO NOTHING`); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT value FROM `+l.metadata.quoted+` WHERE key = 'lock' FOR UPDATE`); err != nil {
			return fmt.Errorf("cannot lock the row \"lock\" of table %s, which another sidecar may hold while it migrates: %w", l.metadata.quoted, err)
		}
		level, err := s.level(ctx, tx)
		if err != nil {
			return err
		}
		for ; level < len(l.migrations); level++ {
			for _, statement := range l.migrations[level] {
				if _, err := tx.Exec(ctx, statement); err != nil {
					return fmt.Errorf("migration %d of table %s: %w", level+1, l.table.quoted, err)
				}
			}
			if _, err := tx.Exec(ctx, `INSERT INTO `+l.metadata.quoted+` (key, value) VALUES ($1, $2)
ON CONFLICT (key) DO UPDATE SET value = excluded.value`, l.levelKey, strconv.Itoa(level+1)); err != nil {
				return err
			}
		}
		return nil
	})
}

// makeMetadataTable tries several times: two sidecars that make the same table at once get in each other's way, even with
// IF NOT EXISTS.
func (s *Store) makeMetadataTable(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		_, err := s.pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS `+s.layout.metadata.quoted+` (
	key text NOT NULL PRIMARY KEY,
	value text NOT NULL
)`)
		switch code(err) {
		case codeUniqueViolation, codeDuplicateTable, codeDuplicateObject:
		default:
			return err
		}
		if attempt == 3 {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// level is the number of migrations applied.
func (s *Store) level(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
},
) (int, error) {
	var text string
	err := db.QueryRow(ctx, `SELECT value FROM `+s.layout.metadata.quoted+` WHERE key = $1`, s.layout.levelKey).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	level, err := strconv.Atoi(text)
	if err != nil || level < 0 {
		return 0, fmt.Errorf("row %q of table %s holds %q instead of a number; restore it or use another metadataTableName", s.layout.levelKey, s.layout.metadata.quoted, text)
	}
	return level, nil
}
