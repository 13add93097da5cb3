package mysql

import (
	"context"
	"database/sql"
	"strings"
)

// alive is the condition that an item has not expired.
const alive = "(expiredate IS NULL OR expiredate > CURRENT_TIMESTAMP)"

// columns are what scan reads. The time of expiry comes as Unix time, which does not depend on time zones.
const columns = "id, value, isbinary, eTag, UNIX_TIMESTAMP(expiredate)"

// statements are the prepared statements on items.
type statements struct {
	get, replace, insert, update, delete, deleteETag, keys, claimCleanup, cleanup *sql.Stmt
}

// prepare prepares them all. A NULL for the seconds to live makes the time of expiry NULL; a life beyond the last moment that
// a TIMESTAMP can hold, in January 2038, ends then.
func (s *Store) prepare(ctx context.Context) error {
	fill := strings.NewReplacer("$state", "`"+s.options.TableName+"`", "$metadata", "`"+s.options.MetadataTableName+"`", "$alive", alive, "$columns", columns,
		"$expiry", "LEAST(CURRENT_TIMESTAMP + INTERVAL ? SECOND, FROM_UNIXTIME(2147483647))").Replace
	for _, p := range []struct {
		statement **sql.Stmt
		text      string
	}{
		{&s.statements.get, `SELECT $columns FROM $state WHERE id = ? AND $alive`},
		{&s.statements.replace, `REPLACE INTO $state (id, value, isbinary, eTag, expiredate) VALUES (?, ?, ?, ?, $expiry)`},
		// An expired row counts as none. The columns are set one after the other, so the time that decides comes last.
		{&s.statements.insert, `INSERT INTO $state (id, value, isbinary, eTag, expiredate) VALUES (?, ?, ?, ?, $expiry)
ON DUPLICATE KEY UPDATE
	value = IF($alive, value, VALUES(value)),
	isbinary = IF($alive, isbinary, VALUES(isbinary)),
	eTag = IF($alive, eTag, VALUES(eTag)),
	expiredate = IF($alive, expiredate, VALUES(expiredate))`},
		{&s.statements.update, `UPDATE $state SET value = ?, isbinary = ?, eTag = ?, expiredate = $expiry WHERE id = ? AND eTag = ? AND $alive`},
		{&s.statements.delete, `DELETE FROM $state WHERE id = ?`},
		{&s.statements.deleteETag, `DELETE FROM $state WHERE id = ? AND eTag = ?`},
		// The first LIKE can use the index; the second heeds case.
		{&s.statements.keys, `SELECT row_id, id FROM $state
WHERE id LIKE ? ESCAPE '!' AND CONVERT(id USING utf8mb4) COLLATE utf8mb4_bin LIKE ? ESCAPE '!' AND row_id > ? AND $alive
ORDER BY row_id LIMIT ?`},
		{&s.statements.claimCleanup, `INSERT INTO $metadata (id, value) VALUES ('last-cleanup', CURRENT_TIMESTAMP)
ON DUPLICATE KEY UPDATE value = IF(TIMESTAMPDIFF(MICROSECOND, value, CURRENT_TIMESTAMP) > ?, CURRENT_TIMESTAMP, value)`},
		{&s.statements.cleanup, `DELETE FROM $state WHERE expiredate IS NOT NULL AND expiredate <= CURRENT_TIMESTAMP`},
	} {
		var err error
		if *p.statement, err = s.db.PrepareContext(ctx, fill(p.text)); err != nil {
			return err
		}
	}
	return nil
}

// likePattern turns a LIKE pattern with backslash as its escape into one with an exclamation mark, since what a backslash
// means in SQL text depends on the server's mode.
func likePattern(pattern string) string {
	var b strings.Builder
	escaped := false
	for _, c := range []byte(pattern) {
		switch {
		case escaped:
			escaped = false
			if c == '%' || c == '_' || c == '!' {
				b.WriteByte('!')
			}
			b.WriteByte(c)
		case c == '\\':
			escaped = true
		case c == '!':
			b.WriteString("!!")
		default:
			b.WriteByte(c)
		}
	}
	if escaped {
		b.WriteByte('\\')
	}
	return b.String()
}
