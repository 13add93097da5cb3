package imagepages

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// Release takes the pages of the program's own file out of the process's memory. What is needed comes back from the system's cache of the
// file as it is touched, 64 KiB at a time. Mappings that can be written to are left alone, and those with pages that are no longer the
// file's: relocated ones, or a debugger's. It takes about a millisecond.
func Release() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("the program's file is not known: %w", err)
	}
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("the program's mappings are not known: %w", err)
	}
	for _, m := range mappings(text, program) {
		// The range comes from the kernel, and the mapping of a running program does not go away.
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, syscall.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise(%#x-%#x, MADV_DONTNEED): %w", m.from, m.to, errno)
		}
	}
	return nil
}

// mapping is a range of addresses.
type mapping struct{ from, to uintptr }

// mappings finds those of a file that are private, cannot be written to and are the file's own bytes (proc_pid_smaps(5)).
func mappings(smaps []byte, file string) (found []mapping) {
	var current mapping
	for line := range bytes.Lines(smaps) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if m, permissions, path, ok := header(line); ok {
			current = mapping{}
			if permissions[1] == '-' && permissions[3] == 'p' && string(path) == file {
				current = m
			}
			continue
		}
		if dirty, ok := bytes.CutPrefix(line, []byte("Anonymous:")); ok && current.to > 0 && string(bytes.TrimSpace(dirty)) == "0 kB" {
			found = append(found, current)
		}
	}
	return found
}

// header reads the first line of a mapping, such as "00400000-03f1c000 r-xp 00001000 fe:00 1234 /usr/bin/daprd".
func header(line []byte) (m mapping, permissions, path []byte, ok bool) {
	fields := bytes.SplitN(line, []byte(" "), 6)
	if len(fields) < 6 || len(fields[1]) != 4 {
		return m, nil, nil, false
	}
	from, to, ok := bytes.Cut(fields[0], []byte("-"))
	if !ok {
		return m, nil, nil, false
	}
	first, err := strconv.ParseUint(string(from), 16, strconv.IntSize)
	if err != nil {
		return m, nil, nil, false
	}
	last, err := strconv.ParseUint(string(to), 16, strconv.IntSize)
	if err != nil || last <= first {
		return m, nil, nil, false
	}
	return mapping{uintptr(first), uintptr(last)}, fields[1], bytes.TrimLeft(fields[5], " "), true
}
