package servers

import (
	"bufio"
	"fmt"
	"strings"
	"testing"
)

func TestReadReply(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"+OK\r\n", "OK"},
		{":-7\r\n", "-7"},
		{"$5\r\na\r\nbc\r\n", "a\r\nbc"},
		{"$-1\r\n", "<nil>"},
		{"*-1\r\n", "<nil>"},
		{"*2\r\n$1\r\na\r\n*1\r\n:2\r\n", "[a [2]]"},
		{"-ERR no\r\n", "error ERR no"},
		{"", "error EOF"},
		{"\r\n", "error empty reply"},
		{"$5\r\nab", "error unexpected EOF"},
		{"?1\r\n", `error reply "?1" of unknown type`},
	} {
		reply, err := readReply(bufio.NewReader(strings.NewReader(test.in)))
		got := fmt.Sprint(reply)
		if err != nil {
			got = "error " + err.Error()
		}
		if got != test.want {
			t.Errorf("%q: %s, want %s", test.in, got, test.want)
		}
	}
}
