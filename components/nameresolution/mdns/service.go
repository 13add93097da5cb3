package mdns

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// The lives of records in seconds (Dapr API, mDNS name resolver: registration).
const (
	serviceTTL = 3200
	addressTTL = 120
	// legacyTTL is the most for those who ask from another port (RFC 6762, section 6.7).
	legacyTTL = 10
)

const (
	domain = "local."
	// catalogue is the name that lists service types (RFC 6763, section 9).
	catalogue = "_services._dns-sd._udp." + domain
	// cacheFlush marks records of which there can be only one sender, unicastResponse questions whose answer may come
	// directly (RFC 6762, sections 10.2 and 5.4).
	cacheFlush      = 1 << 15
	unicastResponse = 1 << 15
)

// service is the announcement of one sidecar. It does not change once made.
type service struct {
	id       string
	name     string // of the service: "<id>.local."
	instance string
	host     string
	address  netip.Addr
	port     uint16

	// The packets that are sent often, packed once.
	browseReply, announcement, probe, goodbye []byte
	// wireNames are the names that questions may be about, as they stand in packets.
	wireNames [][]byte
}

func newService(id, hostname string, pid int, address netip.Addr, port uint16) (*service, error) {
	name, err := serviceName(id)
	if err != nil {
		return nil, err
	}
	s := &service{
		id: id, name: name, address: address, port: port,
		instance: hostname + ":" + strconv.Itoa(pid) + "." + name,
		host:     strings.TrimSuffix(hostname, ".") + "." + domain,
	}
	for _, n := range []*string{&s.instance, &s.host} {
		if *n, err = canonical(*n); err != nil {
			return nil, fmt.Errorf("cannot announce the host name %q over mDNS: %w", hostname, err)
		}
	}
	for _, n := range []string{s.name, s.instance, s.host, catalogue} {
		buf := make([]byte, 256)
		end, err := dns.PackDomainName(n, buf, 0, nil, false)
		if err != nil {
			return nil, err
		}
		s.wireNames = append(s.wireNames, buf[:end])
	}
	if len(id) > 255 {
		return nil, fmt.Errorf("cannot announce the app id %q over mDNS: it is longer than 255 bytes", id)
	}
	browse := response()
	browse.Answer = []dns.RR{s.pointer(serviceTTL)}
	browse.Extra = append(s.details(serviceTTL, 0), s.addressRecord(addressTTL, 0))
	s.browseReply = pack(browse)

	// The probe asks whether somebody else has the name, and says what is going to be announced (RFC 6762, section 8.1).
	probe := &dns.Msg{Question: []dns.Question{{Name: s.instance, Qtype: dns.TypeANY, Qclass: dns.ClassINET}}}
	probe.Ns = s.details(serviceTTL, 0)
	probe.Compress = true
	s.probe = pack(probe)

	s.announcement = pack(s.all(serviceTTL, addressTTL))
	s.goodbye = pack(s.all(0, 0))
	for _, p := range [][]byte{s.browseReply, s.probe, s.announcement, s.goodbye} {
		if p == nil {
			return nil, fmt.Errorf("cannot announce the app id %q of host %q over mDNS: the names do not fit into DNS records", id, hostname)
		}
	}
	return s, nil
}

// serviceName is the DNS name of an app, in the form that names have after parsing.
func serviceName(id string) (string, error) {
	name, err := canonical(id + "." + domain)
	if id == "" || err != nil {
		return "", fmt.Errorf("couldn't find service: %s: the app id makes no DNS name; it must be from 1 to 63 bytes long", id)
	}
	return name, nil
}

// canonical brings a name into the form that names have after parsing.
func canonical(name string) (string, error) {
	buf := make([]byte, 256)
	n, err := dns.PackDomainName(name, buf, 0, nil, false)
	if err != nil {
		return "", err
	}
	name, _, err = dns.UnpackDomainName(buf[:n], 0)
	return name, err
}

func (s *service) addrPort() netip.AddrPort { return netip.AddrPortFrom(s.address, s.port) }

func header(name string, rrtype, class uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET | class, Ttl: ttl}
}

func (s *service) pointer(ttl uint32) dns.RR {
	return &dns.PTR{Hdr: header(s.name, dns.TypePTR, 0, ttl), Ptr: s.instance}
}

func (s *service) cataloguePointer(ttl uint32) dns.RR {
	return &dns.PTR{Hdr: header(catalogue, dns.TypePTR, 0, ttl), Ptr: s.name}
}

// details are the records of the instance. class holds extra bits.
func (s *service) details(ttl uint32, class uint16) []dns.RR {
	return []dns.RR{
		&dns.SRV{Hdr: header(s.instance, dns.TypeSRV, class, ttl), Port: s.port, Target: s.host},
		&dns.TXT{Hdr: header(s.instance, dns.TypeTXT, class, ttl), Txt: []string{escapeText(s.id)}},
	}
}

func (s *service) addressRecord(ttl uint32, class uint16) dns.RR {
	if s.address.Is4() {
		return &dns.A{Hdr: header(s.host, dns.TypeA, class, ttl), A: s.address.AsSlice()}
	}
	return &dns.AAAA{Hdr: header(s.host, dns.TypeAAAA, class, ttl), AAAA: s.address.AsSlice()}
}

// all is the unsolicited packet with every record; lives of 0 take them back.
func (s *service) all(ttl, addressTTL uint32) *dns.Msg {
	m := response()
	m.Answer = append(s.details(ttl, cacheFlush), s.pointer(ttl), s.cataloguePointer(ttl), s.addressRecord(addressTTL, cacheFlush))
	return m
}

func response() *dns.Msg {
	return &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}, Compress: true}
}

// pack returns the wire form, or nil when the message has none.
func pack(m *dns.Msg) []byte {
	data, err := m.Pack()
	if err != nil {
		return nil
	}
	return data
}

// escapeText writes bytes so that the DNS library takes them literally.
func escapeText(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c == '\\' || c == '"' || c < ' ' || c > '~' {
			fmt.Fprintf(&b, "\\%03d", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// unescapeText undoes the escapes of the DNS library.
func unescapeText(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		if i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 10, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		i++
		b.WriteByte(s[i])
	}
	return b.String()
}
