package local

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"path/filepath"
	"time"
)

// Ports of NATS are taken from here: below the ports that systems take for outgoing connections, and away from 4222, where a
// NATS server of the user's own may be.
const (
	firstPort = 22000
	portCount = 1000
)

// ports is what is remembered, since the sidecars know the port from their component files.
type ports struct {
	NATS int `json:"nats"`
}

// choiceLock guards choosing and remembering.
func choiceLock(dir string) string { return filepath.Join(dir, "ports.lock") }

// choiceTimeout bounds the wait for another process that chooses.
const choiceTimeout = 10 * time.Second

// ReservePort is the port that NATS of the directory has for good: the remembered one, or a free one, which is remembered. It
// starts looking at a place that follows from the directory, so that several users of a machine hardly meet.
func ReservePort(dir string) (int, error) { return reservePort(dir, 0) }

func reservePort(dir string, wanted int) (int, error) {
	if err := makeDir(dir); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), choiceTimeout)
	defer cancel()
	lock, err := acquire(ctx, choiceLock(dir))
	if errors.Is(err, errLocked) {
		return 0, fmt.Errorf("another command has been choosing the port of the local broker for a long time: %w; end it", err)
	}
	if err != nil {
		return 0, err
	}
	defer lock.release()
	remembered, err := rememberedPort(dir)
	switch {
	case err != nil:
		return 0, err
	case wanted == 0 && remembered != 0, wanted != 0 && wanted == remembered:
		return remembered, nil
	case wanted == 0:
		if wanted, err = choosePort(dir); err != nil {
			return 0, err
		}
	case wanted < 1 || wanted > 65535:
		return 0, fmt.Errorf("the port %d is not between 1 and 65535", wanted)
	}
	return wanted, writeJSON(portsFile(dir), ports{NATS: wanted})
}

// rememberedPort is 0 when none is.
func rememberedPort(dir string) (int, error) {
	var p ports
	err := readJSON(portsFile(dir), &p)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return p.NATS, err
}

func choosePort(dir string) (int, error) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(dir))
	first := int(h.Sum32() % portCount)
	for i := range portCount {
		port := firstPort + (first+i)%portCount
		if l, err := net.Listen("tcp", loopback(port)); err == nil {
			_ = l.Close()
			return port, nil
		}
	}
	return 0, fmt.Errorf("no port between %d and %d is free on 127.0.0.1; end what holds them", firstPort, firstPort+portCount-1)
}

// Owns tells whether a port on loopback is that of NATS of the directory: the remembered one; with nothing remembered, any that
// could have been.
func Owns(dir string, port int) bool {
	remembered, err := rememberedPort(dir)
	if err == nil && remembered != 0 {
		return port == remembered
	}
	return port >= firstPort && port < firstPort+portCount
}

// PortTakenError says that something else listens on the port of NATS.
type PortTakenError struct {
	Port int
	// Holder names the process, "" when it is not known.
	Holder string
	// Dir is the directory of the services.
	Dir string
	Err error
}

func (e *PortTakenError) Error() string {
	by := e.Holder
	if by == "" {
		by = "a process that cannot be seen from here"
	}
	return fmt.Sprintf("the port %d of the local broker is taken by %s: %s; end that process, or choose another port with `dapr local start --port N` and write it into natsURL of the component files that have %d", e.Port, by, e.Err, e.Port)
}

// Unwrap is the cause.
func (e *PortTakenError) Unwrap() error { return e.Err }

// checkFree tells who holds a port that cannot be listened on.
func checkFree(port int, dir string) error {
	l, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return &PortTakenError{Port: port, Holder: portHolder(port), Dir: dir, Err: err}
	}
	return l.Close()
}
