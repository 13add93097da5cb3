package postgresql

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// jsonable is a value of a column of the type oid as it stands in the JSON of a response: numbers, booleans, texts and JSON as
// they are, times in RFC 3339, bytes in base64, and what JSON has no form for as PostgreSQL writes it.
func jsonable(types *pgtype.Map, oid uint32, value any) any {
	switch v := value.(type) {
	case [16]byte:
		return uuid.UUID(v).String()
	case float32:
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return strconv.FormatFloat(f, 'g', -1, 32)
		}
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return strconv.FormatFloat(v, 'g', -1, 64)
		}
	case pgtype.InfinityModifier:
		return v.String()
	case pgtype.Numeric:
		if v.NaN || v.InfinityModifier != pgtype.Finite {
			return text(types, oid, v)
		}
		// else a JSON number with all its digits
	case []any:
		var element uint32
		if t, ok := types.TypeForOID(oid); ok {
			if c, ok := t.Codec.(*pgtype.ArrayCodec); ok {
				element = c.ElementType.OID
			}
		}
		for i := range v {
			v[i] = jsonable(types, element, v[i])
		}
	case map[string]any, time.Time, string, bool, nil, []byte, int16, int32, int64, uint32, uint64, netip.Prefix, netip.Addr:
	case net.HardwareAddr:
		return v.String()
	default:
		return text(types, oid, v)
	}
	return value
}

// text is the value as PostgreSQL writes it.
func text(types *pgtype.Map, oid uint32, value any) string {
	switch v := value.(type) {
	case pgtype.Range[any]:
		return rangeText(types, oid, v)
	case pgtype.Multirange[pgtype.Range[any]]:
		var element uint32
		if t, ok := types.TypeForOID(oid); ok {
			if c, ok := t.Codec.(*pgtype.MultirangeCodec); ok {
				element = c.ElementType.OID
			}
		}
		parts := make([]string, len(v))
		for i, r := range v {
			parts[i] = rangeText(types, element, r)
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	b, err := types.Encode(oid, pgtype.TextFormatCode, value, nil)
	if err != nil || b == nil {
		return fmt.Sprint(value)
	}
	return string(b)
}

// rangeText is a range as PostgreSQL writes it, which the driver does not do for bounds of any type.
func rangeText(types *pgtype.Map, oid uint32, r pgtype.Range[any]) string {
	var element uint32
	if t, ok := types.TypeForOID(oid); ok {
		if c, ok := t.Codec.(*pgtype.RangeCodec); ok {
			element = c.ElementType.OID
		}
	}
	bound := func(b any) string {
		t := text(types, element, b)
		if t == "" || strings.ContainsAny(t, " ,()[]\"\\\t\n") {
			return `"` + strings.NewReplacer(`"`, `""`, `\`, `\\`).Replace(t) + `"`
		}
		return t
	}
	if r.LowerType == pgtype.Empty {
		return "empty"
	}
	out := "("
	if r.LowerType == pgtype.Inclusive {
		out = "["
	}
	if r.LowerType != pgtype.Unbounded {
		out += bound(r.Lower)
	}
	out += ","
	if r.UpperType != pgtype.Unbounded {
		out += bound(r.Upper)
	}
	if r.UpperType == pgtype.Inclusive {
		return out + "]"
	}
	return out + ")"
}
