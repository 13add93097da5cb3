package mdns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// network is the link over the UDP sockets of the machine: one for IPv4 and one for IPv6, whichever can be had, each
// joined to the group on every interface that may carry multicast.
type network struct {
	log     *slog.Logger
	receive func(packet)
	port    int
	wg      sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	sockets []*socket
	// names are those of the interfaces; the map is replaced, never changed, as every packet needs it.
	names atomic.Pointer[map[int]string]
	// setup is why there is no usable socket, sending why the last packet could not leave, taken why one of the two sockets
	// could not be opened though the system has the family; nil otherwise.
	setup, sending, taken error
}

// socket is the UDP socket of one family.
type socket struct {
	family int
	conn   net.PacketConn
	v4     *ipv4.PacketConn
	v6     *ipv6.PacketConn
	joined map[int]*net.Interface
}

// problems are errors that a person reads in one line.
type problems []error

func (p problems) Error() string {
	texts := make([]string, len(p))
	for i, err := range p {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (p problems) Unwrap() []error { return p }

// errTaken is that a port cannot be shared with the program that has it.
var errTaken = errors.New("another program has it and does not share it")

func newNetwork(log *slog.Logger) *network {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &network{log: log, port: port}
}

func (n *network) open(_ context.Context, receive func(packet)) error {
	n.receive = receive
	n.refresh()
	return n.problem()
}

func (n *network) problem() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.setup != nil {
		return n.setup
	}
	return n.sending
}

func (n *network) partial() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.taken
}

// refresh opens the sockets that are missing and joins the group on interfaces that are new.
func (n *network) refresh() (added bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	var problems problems
	n.taken = nil
	for _, family := range []int{4, 6} {
		if n.socket(family) != nil {
			continue
		}
		s, err := listen(family, n.port)
		if err != nil {
			problems = append(problems, err)
			if errors.Is(err, errTaken) || errors.Is(err, fs.ErrPermission) {
				n.taken = err
			}
			continue
		}
		n.sockets = append(n.sockets, s)
		n.wg.Go(func() { n.read(s) })
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		problems = append(problems, fmt.Errorf("cannot list the network interfaces: %w", err))
	}
	present := map[int]bool{}
	names := map[int]string{}
	for _, i := range interfaces {
		// Loopback lets sidecars of a machine without a network find each other; it works even where it lacks the flag.
		if i.Flags&net.FlagUp == 0 || i.Flags&(net.FlagMulticast|net.FlagLoopback) == 0 {
			continue
		}
		present[i.Index] = true
		names[i.Index] = i.Name
		for _, s := range n.sockets {
			if s.joined[i.Index] != nil {
				continue
			}
			if err := s.join(&i); err != nil {
				problems = append(problems, fmt.Errorf("cannot join the IPv%d multicast group on interface %s: %w", s.family, i.Name, err))
				continue
			}
			s.joined[i.Index] = &i
			added = true
		}
	}
	n.names.Store(&names)
	usable := false
	for _, s := range n.sockets {
		for index := range s.joined {
			if err == nil && !present[index] {
				delete(s.joined, index)
			}
		}
		usable = usable || len(s.joined) > 0
	}
	n.setup = nil
	if !usable {
		n.setup = append(problems, errors.New("no network interface carries multicast"))
	}
	return added
}

// socket returns the open socket of a family, or nil. The lock is held.
func (n *network) socket(family int) *socket {
	for _, s := range n.sockets {
		if s.family == family {
			return s
		}
	}
	return nil
}

// listen opens the socket of a family, sharing the port with the other programs of the machine that speak multicast DNS.
func listen(family, port int) (*socket, error) {
	config := net.ListenConfig{Control: sharePort}
	kind, address := "udp4", fmt.Sprintf("0.0.0.0:%d", port)
	if family == 6 {
		kind, address = "udp6", fmt.Sprintf("[::]:%d", port)
	}
	conn, err := config.ListenPacket(context.Background(), kind, address)
	if err != nil && inUse(err) {
		return nil, fmt.Errorf("cannot open UDP port %d for IPv%d: %w; find it with a tool such as ss or netstat, and stop it", port, family, errTaken)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open UDP port %d for IPv%d: %w", port, family, err)
	}
	s := &socket{family: family, conn: conn, joined: map[int]*net.Interface{}}
	// Each of these is a refinement that some systems do not offer.
	if udp, ok := conn.(*net.UDPConn); ok {
		_ = udp.SetReadBuffer(1 << 20) // all sidecars of a network may answer at once
	}
	if family == 4 {
		s.v4 = ipv4.NewPacketConn(conn)
		_ = s.v4.SetControlMessage(ipv4.FlagInterface|ipv4.FlagDst, true)
		_ = s.v4.SetMulticastLoopback(true)
		_ = s.v4.SetMulticastTTL(255)
		_ = s.v4.SetTTL(255)
	} else {
		s.v6 = ipv6.NewPacketConn(conn)
		_ = s.v6.SetControlMessage(ipv6.FlagInterface|ipv6.FlagDst, true)
		_ = s.v6.SetMulticastLoopback(true)
		_ = s.v6.SetMulticastHopLimit(255)
		_ = s.v6.SetHopLimit(255)
	}
	return s, nil
}

func (s *socket) join(i *net.Interface) error {
	if s.v4 != nil {
		return s.v4.JoinGroup(i, group(4))
	}
	return s.v6.JoinGroup(i, group(6))
}

// send sends to the group through one interface.
func (s *socket) send(data []byte, i *net.Interface) error {
	var err error
	if s.v4 != nil {
		err = s.v4.SetMulticastInterface(i)
	} else {
		err = s.v6.SetMulticastInterface(i)
	}
	if err != nil {
		return err
	}
	_, err = s.conn.WriteTo(data, group(s.family))
	return err
}

// maxPacket is the length in bytes above which a packet is none of multicast DNS (RFC 6762, section 17).
const maxPacket = 9000

// read hands packets on until the socket is closed.
func (n *network) read(s *socket) {
	buf := make([]byte, maxPacket+1)
	for {
		var size, index int
		var from net.Addr
		var to net.IP
		var err error
		if s.v4 != nil {
			var cm *ipv4.ControlMessage
			if size, cm, from, err = s.v4.ReadFrom(buf); cm != nil {
				index, to = cm.IfIndex, cm.Dst
			}
		} else {
			var cm *ipv6.ControlMessage
			if size, cm, from, err = s.v6.ReadFrom(buf); cm != nil {
				index, to = cm.IfIndex, cm.Dst
			}
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			n.log.Debug("cannot receive multicast DNS packets", "error", err)
			if !n.retryRead() {
				return
			}
			continue
		}
		if size > maxPacket {
			continue
		}
		// Nothing is ever asked for that would be answered to this socket alone, so a packet that was not sent to the
		// group is either for another program or forged from afar (RFC 6762, section 11).
		if to != nil && !to.IsMulticast() {
			continue
		}
		udp, ok := from.(*net.UDPAddr)
		if !ok {
			continue
		}
		sender := udp.AddrPort()
		n.receive(packet{
			data: buf[:size],
			from: netip.AddrPortFrom(sender.Addr().Unmap(), sender.Port()),
			via:  route{family: s.family, index: index},
			zone: n.name(index),
		})
	}
}

// retryRead keeps a socket that fails at once from spinning, and reports whether to read on.
func (n *network) retryRead() bool {
	time.Sleep(10 * time.Millisecond)
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.closed
}

func (n *network) name(index int) string {
	if names := n.names.Load(); names != nil {
		return (*names)[index]
	}
	return ""
}

func (n *network) multicast(data []byte, via route) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	sent := false
	var failures problems
	for _, s := range n.sockets {
		if via.family != 0 && via.family != s.family {
			continue
		}
		for index, i := range s.joined {
			if via.index != 0 && via.index != index {
				continue
			}
			if err := s.send(data, i); err != nil {
				failures = append(failures, fmt.Errorf("IPv%d on interface %s: %w", s.family, i.Name, err))
			} else {
				sent = true
			}
		}
	}
	if via == everywhere {
		n.sending = nil
		if !sent && len(failures) > 0 {
			n.sending = failures
		}
	}
}

func (n *network) unicast(data []byte, to netip.AddrPort, via route) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.socket(via.family); s != nil && !n.closed && data != nil {
		if _, err := s.conn.WriteTo(data, net.UDPAddrFromAddrPort(to)); err != nil {
			n.log.Debug("cannot answer a multicast DNS query", "to", to, "error", err)
		}
	}
}

func (n *network) close() {
	n.mu.Lock()
	n.closed = true
	for _, s := range n.sockets {
		_ = s.conn.Close()
	}
	n.mu.Unlock()
	n.wg.Wait()
}
