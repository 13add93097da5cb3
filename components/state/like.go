package state

import "unicode/utf8"

// MatchLike reports whether s as a whole matches an SQL LIKE pattern: % stands for any text, _ for one character, and a
// backslash takes the special meaning from the character behind it. Letters match in their own case only. It serves
// [KeysLister]s whose server has no LIKE of its own.
func MatchLike(pattern, s string) bool {
	// Where to go on after a mismatch: behind the last %, which then takes one character more.
	backPattern, back := -1, 0
	p, i := 0, 0
	for i < len(s) || p < len(pattern) {
		if p < len(pattern) {
			switch c := pattern[p]; {
			case c == '%':
				backPattern, back = p, i
				p++
				continue
			case c == '_':
				if i < len(s) {
					_, n := utf8.DecodeRuneInString(s[i:])
					i += n
					p++
					continue
				}
			default:
				q := p
				if c == '\\' && p+1 < len(pattern) {
					q++
				}
				if i < len(s) && s[i] == pattern[q] {
					i++
					p = q + 1
					continue
				}
			}
		}
		if backPattern < 0 || back >= len(s) {
			return false
		}
		_, n := utf8.DecodeRuneInString(s[back:])
		back += n
		p, i = backPattern+1, back
	}
	return true
}
