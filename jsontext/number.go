package jsontext

import (
	"bytes"
	"math"
	"strconv"
)

// longestSure is the number of digits that a whole number may have without exceeding the range of float64.
const longestSure = 308

// appendNumber appends the canonical form of a well-formed number. Numbers beyond the range of float64 are refused.
func appendNumber(dst, number []byte, float bool) ([]byte, bool) {
	if !float && len(number) <= longestSure {
		return append(dst, number...), true
	}
	f, err := strconv.ParseFloat(string(number), 64)
	if err != nil {
		return dst, false
	}
	if !float {
		return append(dst, number...), true
	}
	var short [32]byte
	encoded := AppendFloat(short[:0], f)
	if !bytes.Equal(encoded, number) && !sameNumber(encoded, number) {
		encoded = number
	}
	return append(dst, encoded...), true
}

// AppendFloat appends a finite number as encoding/json does.
func AppendFloat(dst []byte, f float64) []byte {
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	dst = strconv.AppendFloat(dst, f, format, -1, 64)
	if n := len(dst); format == 'e' && n >= 4 && dst[n-4] == 'e' && (dst[n-3] == '-' || dst[n-3] == '+') && dst[n-2] == '0' {
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}

// sameNumber reports whether two well-formed numbers have exactly the same decimal value and sign.
func sameNumber(a, b []byte) bool {
	var da, db [48]byte
	na, ea, digitsA := decimal(a, da[:0])
	nb, eb, digitsB := decimal(b, db[:0])
	return na == nb && bytes.Equal(digitsA, digitsB) && (ea == eb || len(digitsA) == 0)
}

// decimal takes a number apart: sign, and the value as 0.digits times ten to the exponent, without zeros at either end.
func decimal(number, buffer []byte) (negative bool, exponent int, digits []byte) {
	if number[0] == '-' {
		negative = true
		number = number[1:]
	}
	mantissa := number
	if e := bytes.IndexAny(number, "eE"); e >= 0 {
		mantissa = number[:e]
		exponent = clampedInt(number[e+1:])
	}
	digits = buffer
	whole, fraction, _ := bytes.Cut(mantissa, []byte{'.'})
	digits = append(append(digits, whole...), fraction...)
	exponent += len(whole)
	trimmed := bytes.TrimLeft(digits, "0")
	exponent -= len(digits) - len(trimmed)
	return negative, exponent, bytes.TrimRight(trimmed, "0")
}

// clampedInt reads a whole number, and stops growing where it no longer matters.
func clampedInt(text []byte) int {
	sign := 1
	switch text[0] {
	case '-':
		sign = -1
		text = text[1:]
	case '+':
		text = text[1:]
	}
	n := 0
	for _, b := range text {
		if n > 1<<30 {
			break
		}
		n = n*10 + int(b-'0')
	}
	return sign * n
}
