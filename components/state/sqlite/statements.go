package sqlite

import "strings"

// statements are the texts of all statements on items, with the names of the tables filled in.
type statements struct {
	get, upsert, insert, update, delete, deleteETag, keys, claimCleanup, cleanup string
}

// statementsFor fills in the names of the tables, which must have been checked.
//
// Times are the database's: text in UTC as CURRENT_TIMESTAMP gives it, which sorts like the time. The modifier NULL makes
// datetime NULL, which is an item that never expires.
func statementsFor(table, metadata string) statements {
	fill := strings.NewReplacer("$state", table, "$metadata", metadata, "$alive", "(expiration_time IS NULL OR expiration_time > CURRENT_TIMESTAMP)").Replace
	return statements{
		get: fill(`SELECT value, is_binary, etag, unixepoch(expiration_time) FROM $state WHERE key = ? AND $alive`),
		upsert: fill(`INSERT INTO $state (key, value, is_binary, etag, expiration_time, update_time)
VALUES (?, ?, ?, ?, datetime('now', ?), CURRENT_TIMESTAMP)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, is_binary = excluded.is_binary, etag = excluded.etag,
	expiration_time = excluded.expiration_time, update_time = excluded.update_time`),
		insert: fill(`INSERT INTO $state (key, value, is_binary, etag, expiration_time, update_time)
VALUES (?, ?, ?, ?, datetime('now', ?), CURRENT_TIMESTAMP)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, is_binary = excluded.is_binary, etag = excluded.etag,
	expiration_time = excluded.expiration_time, update_time = excluded.update_time
WHERE expiration_time IS NOT NULL AND expiration_time <= CURRENT_TIMESTAMP`),
		update: fill(`UPDATE $state SET value = ?, is_binary = ?, etag = ?, expiration_time = datetime('now', ?), update_time = CURRENT_TIMESTAMP
WHERE key = ? AND etag = ? AND $alive`),
		delete:     fill(`DELETE FROM $state WHERE key = ?`),
		deleteETag: fill(`DELETE FROM $state WHERE key = ? AND etag = ?`),
		keys: fill(`SELECT rowid, key FROM $state
WHERE key GLOB ? AND rowid > ? AND $alive ORDER BY rowid LIMIT ?`),
		claimCleanup: fill(`INSERT INTO $metadata (key, value) VALUES ('last-cleanup', CURRENT_TIMESTAMP)
ON CONFLICT (key) DO UPDATE SET value = CURRENT_TIMESTAMP
WHERE unixepoch(CURRENT_TIMESTAMP) - unixepoch($metadata.value) > ?`),
		cleanup: fill(`DELETE FROM $state WHERE expiration_time IS NOT NULL AND expiration_time <= CURRENT_TIMESTAMP`),
	}
}

// glob turns an SQL LIKE pattern with backslash as its escape into one for GLOB, which unlike SQLite's LIKE heeds case.
func glob(like string) string {
	var b strings.Builder
	escaped := false
	for _, c := range []byte(like) {
		switch {
		case !escaped && c == '\\':
			escaped = true
			continue
		case !escaped && c == '%':
			b.WriteByte('*')
		case !escaped && c == '_':
			b.WriteByte('?')
		case c == '*' || c == '?' || c == '[':
			b.WriteByte('[')
			b.WriteByte(c)
			b.WriteByte(']')
		default:
			b.WriteByte(c)
		}
		escaped = false
	}
	if escaped {
		b.WriteByte('\\')
	}
	return b.String()
}
