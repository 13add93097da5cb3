package resource

import (
	"strconv"
	"strings"
)

// resolveScalar gives a plain (unquoted, untagged) scalar its YAML 1.1 type (Dapr API, resource loading: YAML typing):
// yes/no/on/off/y/n are booleans, 0755 is octal, 1_000 is 1000, 1e3 is a float. Dates stay text.
func resolveScalar(text string) node {
	switch text {
	case "", "~", "null", "Null", "NULL":
		return node{kind: kindNull, text: text}
	case "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON":
		return node{kind: kindBool, bool: true, text: text}
	case "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF":
		return node{kind: kindBool, text: text}
	case ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF":
		f, err := strconv.ParseFloat(strings.Replace(text, ".", "", 1), 64)
		if err == nil {
			return node{kind: kindFloat, float: f, text: text}
		}
	}
	switch c := text[0]; {
	case c == '.':
		if decimalFloat(text) {
			if f, err := strconv.ParseFloat(text, 64); err == nil {
				return node{kind: kindFloat, float: f, text: text}
			}
		}
	case c == '+' || c == '-' || c >= '0' && c <= '9':
		plain := strings.ReplaceAll(text, "_", "")
		if i, err := strconv.ParseInt(plain, 0, 64); err == nil {
			return node{kind: kindInt, int: i, text: text}
		}
		if u, err := strconv.ParseUint(plain, 0, 64); err == nil {
			return node{kind: kindUint, uint: u, text: text}
		}
		if decimalFloat(plain) {
			if f, err := strconv.ParseFloat(plain, 64); err == nil {
				return node{kind: kindFloat, float: f, text: text}
			}
		}
	}
	return node{kind: kindString, text: text}
}

// decimalFloat tells whether s is a YAML float: sign, digits with an optional point, optional exponent.
// Go's own syntax is wider (hexadecimal, "infinity"), which would turn words into numbers.
func decimalFloat(s string) bool {
	s = strings.TrimLeft(s[:min(1, len(s))], "+-") + s[min(1, len(s)):]
	mantissa, exponent, hasExponent := s, "", false
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa, exponent, hasExponent = s[:i], s[i+1:], true
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	if whole == "" && fraction == "" || !digits(whole) || !digits(fraction) {
		return false
	}
	if !hasExponent {
		return true
	}
	if exponent != "" && (exponent[0] == '+' || exponent[0] == '-') {
		exponent = exponent[1:]
	}
	return exponent != "" && digits(exponent)
}

// digits tells whether s holds decimal digits only; the empty string does.
func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
