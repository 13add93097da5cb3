package tracing

import (
	"strings"
	"testing"
)

func TestCheckBaggage(t *testing.T) {
	for header, ok := range map[string]bool{
		"k=v": true, "a=1,b=2;p;q=3": true, " a = 1 , b=%20 ": true, "": false, "k": false, "=v": false, "k=a b": false, "k=\"": false, "k=%zz": false, "k=v;": true, "k=v,": false, "k=": true,
		"k=" + strings.Repeat("v", 8190): true, "k=" + strings.Repeat("v", 8191): false, "k=ü": false, "k=v\r\nx: y": false,
	} {
		if err := CheckBaggage(header); (err == nil) != ok {
			t.Errorf("CheckBaggage(%.60q) = %v", header, err)
		}
	}
}

func FuzzCheckBaggage(f *testing.F) {
	f.Add("a=1,b=2;p;q=3")
	f.Fuzz(func(t *testing.T, header string) {
		if CheckBaggage(header) == nil && strings.ContainsAny(header, "\r\n\x00") {
			t.Errorf("%q is taken, though no header can hold it", header)
		}
	})
}
