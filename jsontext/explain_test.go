package jsontext

import (
	"errors"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	found := errors.New("found")
	var into struct{ Name string }
	if err := Explain([]byte(`{"name":1}`), &into, found); err == nil || !strings.Contains(err.Error(), "cannot unmarshal number") {
		t.Errorf("a wrong type: %v", err)
	}
	if err := Explain([]byte(`{"name":"x"} rest`), &into, found); err != found {
		t.Errorf("what encoding/json takes: %v", err)
	}
}
