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

// Ports are taken from here: below the ports that systems take for outgoing connections, away from 4222, where a NATS server of
// the user's own may be, and away from 50001, where sidecars have their gRPC API unless told otherwise, and a Sentry of the
// user's own is.
const (
	firstPort = 22000
	portCount = 1000
)

// ports is what is remembered: the sidecars know the port of NATS from their component files, and those that run know the others
// from their start.
type ports struct {
	NATS int `json:"nats"`
	// Sentry is 0 as long as nobody wanted it.
	Sentry    int `json:"sentry,omitempty"`
	Placement int `json:"placement,omitempty"`
	Scheduler int `json:"scheduler,omitempty"`
	// Etcd is that of the scheduler's store.
	Etcd int `json:"etcd,omitempty"`
}

// has tells whether a port is that of a service.
func (p *ports) has(port int) bool {
	return port == p.NATS || port == p.Sentry || port == p.Placement || port == p.Scheduler || port == p.Etcd
}

// choiceLock guards choosing and remembering.
func choiceLock(dir string) string { return filepath.Join(dir, "ports.lock") }

// choiceTimeout bounds the wait for another process that chooses.
const choiceTimeout = 10 * time.Second

// ReservePort is the port that NATS of the directory has for good: the remembered one, or a free one, which is remembered. It
// starts looking at a place that follows from the directory, so that several users of a machine hardly meet.
func ReservePort(dir string) (int, error) { return reservePort(dir, 0) }

func reservePort(dir string, wanted int) (int, error) {
	var port int
	err := changePorts(dir, func(p *ports) error {
		switch {
		case wanted == 0 && p.NATS != 0:
		case wanted == 0:
			chosen, err := choosePort(dir, p)
			if err != nil {
				return err
			}
			p.NATS = chosen
		case wanted < 1 || wanted > 65535:
			return fmt.Errorf("the port %d is not between 1 and 65535", wanted)
		default:
			p.NATS = wanted
		}
		port = p.NATS
		return nil
	})
	return port, err
}

// reserveOther is the remembered port of a service other than NATS, or the first choice (0 for none), or any free one, which is remembered.
// Unlike that of NATS it is in no file of the user's: when something else has taken it, there is another.
func reserveOther(dir string, firstChoice int, service func(*ports) *int) (int, error) {
	var port int
	err := changePorts(dir, func(p *ports) error {
		remembered := service(p)
		if *remembered == 0 || !isFree(*remembered) {
			*remembered = 0
			if firstChoice != 0 && !p.has(firstChoice) && isFree(firstChoice) && claim(dir, firstChoice) {
				*remembered = firstChoice
			} else {
				chosen, err := choosePort(dir, p)
				if err != nil {
					return err
				}
				*remembered = chosen
			}
		}
		port = *remembered
		return nil
	})
	return port, err
}

// changePorts changes what is remembered.
func changePorts(dir string, change func(*ports) error) error {
	if err := makeDir(dir); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), choiceTimeout)
	defer cancel()
	lock, err := acquire(ctx, choiceLock(dir))
	if errors.Is(err, errLocked) {
		return fmt.Errorf("another command has been choosing the ports of the local services for a long time: %w; end it", err)
	}
	if err != nil {
		return err
	}
	defer lock.release()
	remembered, err := rememberedPorts(dir)
	if err != nil {
		return err
	}
	changed := remembered
	if err := change(&changed); err != nil || changed == remembered {
		return err
	}
	return writeJSON(portsFile(dir), changed)
}

// rememberedPorts are 0 where none is.
func rememberedPorts(dir string) (ports, error) {
	var p ports
	err := readJSON(portsFile(dir), &p)
	if errors.Is(err, fs.ErrNotExist) {
		return ports{}, nil
	}
	return p, err
}

// choosePort is a free port other than those of the services.
func choosePort(dir string, taken *ports) (int, error) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(dir))
	first := int(h.Sum32() % portCount)
	for i := range portCount {
		port := firstPort + (first+i)%portCount
		if !taken.has(port) && isFree(port) && claim(dir, port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no port between %d and %d is free on 127.0.0.1; end what holds them", firstPort, firstPort+portCount-1)
}

// isFree tells whether a port can be listened on.
func isFree(port int) bool {
	l, err := net.Listen("tcp", loopback(port))
	return err == nil && l.Close() == nil
}

// Owns tells whether a port on loopback is that of NATS of the directory: the remembered one; with nothing remembered, any that
// could have been.
func Owns(dir string, port int) bool {
	remembered, err := rememberedPorts(dir)
	if err == nil && remembered.NATS != 0 {
		return port == remembered.NATS
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
