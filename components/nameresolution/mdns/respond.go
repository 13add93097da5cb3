package mdns

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// parse reads a packet that may matter. What cannot matter is seen by its header, without the work of reading it.
func (r *Resolver) parse(data []byte) (*dns.Msg, bool) {
	const headerSize = 12
	if len(data) < headerSize || data[2]&0x78 != 0 || data[3]&0x0f != 0 {
		return nil, false // other opcodes and response codes are to be ignored (RFC 6762, section 18)
	}
	questions, answers := data[4:6], data[6:12]
	if response := data[2]&0x80 != 0; response && (bytes.Equal(answers, make([]byte, 6)) || !r.mayConcern(data[headerSize:])) || !response && (r.own == nil || !r.own.concerns(data[headerSize:], int(questions[0])<<8|int(questions[1]))) {
		return nil, false
	}
	var msg dns.Msg
	if err := msg.Unpack(data); err != nil {
		return nil, false
	}
	return &msg, true
}

// concerns reports whether one of the questions may be about the service. On a busy network most are not, and to read them
// whole would cost more than all the rest.
func (s *service) concerns(questions []byte, count int) bool {
	for range count {
		name, end := questions, 0
		for {
			if end >= len(questions) {
				return false
			}
			length := int(questions[end])
			if length >= 0x40 { // a name that refers to another
				return true
			}
			end += 1 + length
			if length == 0 {
				break
			}
		}
		if end > len(questions) {
			return false
		}
		name = name[:end]
		for _, own := range s.wireNames {
			if bytes.EqualFold(name, own) {
				return true
			}
		}
		if questions = questions[end:]; len(questions) < 4 {
			return false
		}
		questions = questions[4:]
	}
	return false
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
	for _, q := range query.Question[:min(len(query.Question), maxQuestions)] {
		if class := q.Qclass &^ unicastResponse; class != dns.ClassINET && class != dns.ClassANY {
			continue
		}
		reply := r.own.reply(q, query.Answer)
		if reply == nil {
			continue
		}
		shared := !legacy && q.Qclass&unicastResponse == 0 && strings.EqualFold(q.Name, r.own.name)
		if !shared && !r.pace.allow(r.clock.Now()) {
			continue
		}
		switch {
		case shared:
			r.replyToAll(p.via)
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
		default:
			r.link.multicast(pack(reply), p.via)
		}
	}
}

// Bounds of what is answered: anybody on the network can ask.
const (
	// maxQuestions is how many questions of one packet are answered.
	maxQuestions = 16
	// replyGap is the least time between two replies to all on one way. One reply serves all who asked in between, so that
	// a flood of questions makes no flood of replies.
	replyGap = 20 * time.Millisecond
	// maxWays bounds the ways that are remembered.
	maxWays = 1024
	// otherReplies is how many further replies are sent in a second.
	otherReplies = 200
)

// pace is when replies have been sent.
type pace struct {
	mu   sync.Mutex
	ways map[route]*way
	// second is the one in which count replies that are not to all were sent.
	second time.Time
	count  int
}

// way is one interface and family.
type way struct {
	last time.Time
	// pending: a reply is due when the gap is over.
	pending bool
}

// allow reports whether one more reply that is not to all may be sent.
func (p *pace) allow(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if second := now.Truncate(time.Second); !second.Equal(p.second) {
		p.second, p.count = second, 0
	}
	p.count++
	return p.count <= otherReplies
}

// take reports how long to wait before a reply to all; ok is false when one is pending already.
func (p *pace) take(via route, now time.Time) (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.ways[via]
	if w == nil {
		if p.ways == nil || len(p.ways) >= maxWays {
			p.ways = map[route]*way{}
		}
		w = &way{}
		p.ways[via] = w
	}
	if w.pending {
		return 0, false
	}
	if wait = w.last.Add(replyGap).Sub(now); wait > 0 {
		w.pending = true
		w.last = w.last.Add(replyGap)
		return wait, true
	}
	w.last = now
	return 0, true
}

// sent ends what take began with a wait.
func (p *pace) sent(via route) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.ways[via]; w != nil {
		w.pending = false
	}
}

// replyToAll sends the own service to the group, now or when the gap after the last time is over.
func (r *Resolver) replyToAll(via route) {
	wait, ok := r.pace.take(via, r.clock.Now())
	switch {
	case !ok:
		return
	case wait <= 0:
		r.link.multicast(r.own.browseReply, via)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.wg.Go(func() {
		open := r.sleep(wait)
		r.pace.sent(via)
		if open {
			r.link.multicast(r.own.browseReply, via)
		}
	})
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
