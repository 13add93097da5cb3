package mdns

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// parse reads a packet that may matter.
func parse(data []byte) (*dns.Msg, bool) {
	var msg dns.Msg
	if err := msg.Unpack(data); err != nil {
		return nil, false
	}
	// Other opcodes and response codes are to be ignored (RFC 6762, section 18).
	return &msg, msg.Opcode == dns.OpcodeQuery && msg.Rcode == dns.RcodeSuccess
}

// announce tells the network of the service: two probes, two announcements (RFC 6762, section 8).
func (r *Resolver) announce() {
	for _, step := range []struct {
		packet []byte
		wait   time.Duration
	}{
		{r.own.probe, rand.N(250 * time.Millisecond)},
		{r.own.probe, rand.N(250 * time.Millisecond)},
		{r.own.announcement, time.Second},
		{r.own.announcement, 0},
	} {
		r.link.multicast(step.packet, everywhere)
		if !r.sleep(step.wait) {
			return
		}
	}
}

// sleep waits for d and reports whether the resolver is still open.
func (r *Resolver) sleep(d time.Duration) bool {
	t := r.clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.Chan():
		return true
	case <-r.ctx.Done():
		return false
	}
}

// answer replies to the questions of a query that are about the own service.
func (r *Resolver) answer(query *dns.Msg, p packet) {
	legacy := p.from.Port() != port
	for _, q := range query.Question {
		if class := q.Qclass &^ unicastResponse; class != dns.ClassINET && class != dns.ClassANY {
			continue
		}
		reply := r.own.reply(q, query.Answer)
		if reply == nil {
			continue
		}
		switch {
		case legacy:
			// An ordinary DNS client wants its own question and id back (RFC 6762, section 6.7).
			reply.Id = query.Id
			reply.Question = []dns.Question{q}
			for _, rr := range slices.Concat(reply.Answer, reply.Extra) {
				rr.Header().Ttl = min(rr.Header().Ttl, legacyTTL)
			}
			r.link.unicast(pack(reply), p.from, p.via)
		case q.Qclass&unicastResponse != 0:
			r.link.unicast(pack(reply), p.from, p.via)
		case strings.EqualFold(q.Name, r.own.name):
			r.link.multicast(r.own.browseReply, p.via)
		default:
			r.link.multicast(pack(reply), p.via)
		}
	}
}

// reply is the answer to a question, or nil when there is none, or when the asker knows it already.
func (s *service) reply(q dns.Question, known []dns.RR) *dns.Msg {
	asks := func(rrtype uint16) bool { return q.Qtype == rrtype || q.Qtype == dns.TypeANY }
	m := response()
	switch {
	case strings.EqualFold(q.Name, s.name) && asks(dns.TypePTR):
		if knows(known, s.name, s.instance) {
			return nil
		}
		m.Answer = []dns.RR{s.pointer(serviceTTL)}
		m.Extra = append(s.details(serviceTTL, 0), s.addressRecord(addressTTL, 0))
	case strings.EqualFold(q.Name, catalogue) && asks(dns.TypePTR):
		if knows(known, catalogue, s.name) {
			return nil
		}
		m.Answer = []dns.RR{s.cataloguePointer(serviceTTL)}
	case strings.EqualFold(q.Name, s.instance):
		for _, rr := range s.details(serviceTTL, 0) {
			if asks(rr.Header().Rrtype) {
				m.Answer = append(m.Answer, rr)
			}
		}
		m.Extra = []dns.RR{s.addressRecord(addressTTL, 0)}
	case strings.EqualFold(q.Name, s.host):
		if rr := s.addressRecord(addressTTL, 0); asks(rr.Header().Rrtype) {
			m.Answer = []dns.RR{rr}
		}
	}
	if len(m.Answer) == 0 {
		return nil
	}
	return m
}

// knows reports whether the asker lists the pointer with at least half of its life left (RFC 6762, section 7.1).
func knows(known []dns.RR, name, target string) bool {
	for _, rr := range known {
		if ptr, ok := rr.(*dns.PTR); ok && strings.EqualFold(ptr.Hdr.Name, name) && strings.EqualFold(ptr.Ptr, target) && ptr.Hdr.Ttl >= serviceTTL/2 {
			return true
		}
	}
	return false
}
