package imagepages

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"outrigger.dev/telemetry/logging/logtest"
)

const smaps = `00400000-03000000 r-xp 00000000 fe:00 99                         /usr/bin/my daprd
Size:              45056 kB
Rss:               20000 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
03000000-05000000 r--p 02c00000 fe:00 99                         /usr/bin/my daprd
Size:              32768 kB
Anonymous:             0 kB
05000000-05100000 r--p 04c00000 fe:00 99                         /usr/bin/my daprd
Anonymous:             4 kB
05100000-05200000 rw-p 04c00000 fe:00 99                         /usr/bin/my daprd
Anonymous:             0 kB
05200000-05300000 r--s 04c00000 fe:00 99                         /usr/bin/my daprd
Anonymous:             0 kB
05300000-05400000 r--p 00000000 fe:00 98                         /usr/bin/other
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0
Anonymous:             0 kB
`

func TestMappings(t *testing.T) {
	want := []mapping{{0x400000, 0x3000000}, {0x3000000, 0x5000000}}
	if got := mappings([]byte(smaps), "/usr/bin/my daprd"); !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
	if got := mappings([]byte("x\n-5 r--p 0 0 0 /a\n5-4 r--p 0 0 0 /a\nAnonymous: 0 kB\n"), "/a"); got != nil {
		t.Errorf("%x", got)
	}
}

// resident is how much of the test's file is in memory, in KiB.
func resident(t *testing.T) int {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); fields[0] == "RssFile:" {
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Skip("this kernel does not tell how much of files is resident")
	return 0
}

func TestRelease(t *testing.T) {
	before := resident(t)
	if err := Release(); err != nil {
		t.Fatal(err)
	}
	// Everything is still there.
	TestMappings(t)
	if after := resident(t); after >= before {
		t.Errorf("%d KiB before, %d after", before, after)
	}
}

func TestReleaseIsCalledOff(t *testing.T) {
	logs := new(logtest.Log)
	ReleaseLater(logs.Logger())()
	if n := len(logs.Lines()); n != 0 {
		t.Error(logs)
	}
}
