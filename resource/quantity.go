package resource

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// ParseQuantity reads a Kubernetes quantity such as "4Mi", "1k", "1.5Gi", "1e3" or "-1" into a whole number, rounding fractions away
// from zero. Suffixes: n u m k M G T P E (powers of 1000), Ki Mi Gi Ti Pi Ei (powers of 1024), e or E with an exponent of 10.
// Anything else, e.g. "4MB", blanks or the empty text, is an error, and so is what does not fit 64 bits.
func ParseQuantity(text string) (int64, error) {
	invalid := func() (int64, error) {
		return 0, fmt.Errorf("invalid quantity %s: write a number with an optional suffix such as k, M, Ki, Mi or Gi, e.g. 4Mi", quote(text))
	}
	const longest = 64 // more digits than any number that fits
	if len(text) > longest {
		return invalid()
	}
	s := text
	negative := strings.HasPrefix(s, "-")
	if negative || strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	end := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end < 0 {
		end = len(s)
	}
	number, suffix := s[:end], s[end:]
	whole, fraction, _ := strings.Cut(number, ".")
	if whole == "" && fraction == "" || strings.Contains(fraction, ".") {
		return invalid()
	}
	base, exponent, ok := quantitySuffix(suffix)
	if !ok {
		return invalid()
	}
	value, ok := new(big.Int).SetString("0"+whole+fraction, 10)
	if !ok {
		return invalid()
	}
	power := func(b, e int) *big.Int { return new(big.Int).Exp(big.NewInt(int64(b)), big.NewInt(int64(e)), nil) }
	divisor := power(10, len(fraction))
	if exponent >= 0 {
		value.Mul(value, power(base, exponent))
	} else {
		divisor.Mul(divisor, power(base, -exponent))
	}
	value, remainder := value.QuoRem(value, divisor, new(big.Int))
	if remainder.Sign() != 0 {
		value.Add(value, big.NewInt(1))
	}
	if negative {
		value.Neg(value)
	}
	if !value.IsInt64() {
		return 0, fmt.Errorf("quantity %s does not fit 64 bits: write a smaller number", quote(text))
	}
	return value.Int64(), nil
}

// quantitySuffix returns the factor of a suffix as base and exponent.
func quantitySuffix(suffix string) (base, exponent int, ok bool) {
	const decimal, binary = "kMGTPE", "KMGTPE"
	switch {
	case suffix == "":
		return 10, 0, true
	case len(suffix) == 1:
		if i := strings.Index(decimal, suffix); i >= 0 {
			return 1000, i + 1, true
		}
		if i := strings.Index("mun", suffix); i >= 0 {
			return 1000, -i - 1, true
		}
	case len(suffix) == 2 && suffix[1] == 'i':
		if i := strings.IndexByte(binary, suffix[0]); i >= 0 {
			return 1024, i + 1, true
		}
	case suffix[0] == 'e' || suffix[0] == 'E':
		digitsOnly := strings.TrimPrefix(strings.TrimPrefix(suffix[1:], "-"), "+")
		e, err := strconv.Atoi(suffix[1:])
		// The limit keeps the arithmetic small; no number that fits has a larger exponent.
		if err == nil && digits(digitsOnly) && e >= -100 && e <= 100 {
			return 10, e, true
		}
	}
	return 0, 0, false
}
