package mqttclient

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// largestPacket is what the length of a packet on the wire can say, in bytes after it.
const largestPacket = 268435455

// Types of packets: the upper half of their first byte (MQTT 3.1.1, section 2.2.1).
const (
	typeConnack  = 2
	typePublish  = 3
	typePuback   = 4
	typePubrec   = 5
	typePubrel   = 6
	typePubcomp  = 7
	typeSuback   = 9
	typeUnsuback = 11
	typePingresp = 13
)

// First bytes of packets: type and flags.
const (
	firstConnect     = 0x10
	firstPublish     = 0x30
	firstPuback      = 0x40
	firstPubrec      = 0x50
	firstPubrel      = 0x62
	firstPubcomp     = 0x70
	firstSubscribe   = 0x82
	firstUnsubscribe = 0xa2
	firstPingreq     = 0xc0
	firstDisconnect  = 0xe0

	flagRetain    = 0x01
	flagDuplicate = 0x08
)

// Flags of CONNECT.
const (
	connectCleanSession = 0x02
	connectPassword     = 0x40
	connectUsername     = 0x80
)

// connectFrame is a CONNECT packet for a session. Its texts have at most longestTopic bytes.
func connectFrame(s *Session, t *target) []byte {
	size := 10 + 2 + len(s.ClientID)
	var flags byte
	if s.CleanSession {
		flags |= connectCleanSession
	}
	if t.withUsername {
		flags |= connectUsername
		size += 2 + len(t.username)
	}
	if t.withSecret {
		flags |= connectPassword
		size += 2 + len(t.password)
	}
	b := appendText(appendLength([]byte{firstConnect}, size), "MQTT")
	b = append(b, 4, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(keepAlive.Seconds()))
	b = appendText(b, s.ClientID)
	if t.withUsername {
		b = appendText(b, t.username)
	}
	if t.withSecret {
		b = appendText(b, t.password)
	}
	return b
}

// publishFrame is a PUBLISH packet. id counts for qos 1 and 2 only.
func publishFrame(m *Publication, id uint16) []byte {
	size := 2 + len(m.Topic) + len(m.Payload)
	first := byte(firstPublish) | m.QoS<<1
	if m.QoS > 0 {
		size += 2
	}
	if m.Retain {
		first |= flagRetain
	}
	b := make([]byte, 0, size+5)
	b = appendLength(append(b, first), size)
	b = appendText(b, m.Topic)
	if m.QoS > 0 {
		b = binary.BigEndian.AppendUint16(b, id)
	}
	return append(b, m.Payload...)
}

// idFrame is one of the packets that hold only a packet identifier.
func idFrame(first byte, id uint16) []byte { return []byte{first, 2, byte(id >> 8), byte(id)} }

func subscribeFrame(filter string, qos byte, id uint16) []byte {
	b := appendLength([]byte{firstSubscribe}, 2+2+len(filter)+1)
	b = binary.BigEndian.AppendUint16(b, id)
	return append(appendText(b, filter), qos)
}

func unsubscribeFrame(filter string, id uint16) []byte {
	b := appendLength([]byte{firstUnsubscribe}, 2+2+len(filter))
	return appendText(binary.BigEndian.AppendUint16(b, id), filter)
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func appendLength(b []byte, n int) []byte {
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// packet is one that a broker sends.
type packet struct {
	kind byte // one of the types
	id   uint16

	// Of PUBLISH. The payload of SUBACK are its return codes.
	topic             string
	payload           []byte
	qos               byte
	duplicate, retain bool

	// Of CONNACK.
	present bool
	code    byte
}

// malformedError says what a broker sent that is not MQTT 3.1.1.
type malformedError struct{ what string }

func (e *malformedError) Error() string {
	return "the broker sent something that is not MQTT 3.1.1: " + e.what
}

// readPacket reads the next packet. No more memory is taken than bytes have come, but for one step. An error that is
// [io.EOF] means that there is no packet begun.
func readPacket(r *bufio.Reader) (packet, error) {
	first, err := r.ReadByte()
	if err != nil {
		return packet{}, err
	}
	p := packet{kind: first >> 4}
	switch p.kind {
	case typeConnack, typePublish, typePuback, typePubrec, typePubrel, typePubcomp, typeSuback, typeUnsuback, typePingresp:
	default:
		return p, &malformedError{fmt.Sprintf("a packet that begins with %#02x, which is not for clients", first)}
	}
	size, err := readLength(r)
	if err != nil {
		return p, unexpected(err)
	}
	// Before anything is waited for: what is not MQTT at all may be short.
	if least, most := sizes(p.kind); size < least || size > most {
		return p, &malformedError{fmt.Sprintf("a packet of type %d with %d bytes, which it cannot have", p.kind, size)}
	}
	body, err := readBody(r, size)
	if err != nil {
		return p, unexpected(err)
	}
	return p, p.decode(first, body)
}

// sizes are how many bytes a packet can have after its length.
func sizes(kind byte) (least, most int) {
	switch kind {
	case typePublish:
		return 3, largestPacket
	case typeSuback:
		return 2, largestPacket
	case typePingresp:
		return 0, 0
	}
	return 2, 2
}

// unexpected is the error of an end in the middle of a packet.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func readLength(r io.ByteReader) (int, error) {
	n := 0
	for shift := 0; shift < 28; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		n |= int(b&0x7f) << shift
		if b < 0x80 {
			return n, nil
		}
	}
	return 0, &malformedError{"a packet whose length has more than four bytes"}
}

// bodyStep is how many bytes are made room for ahead of their arrival.
const bodyStep = 1 << 20

func readBody(r io.Reader, size int) ([]byte, error) {
	body := make([]byte, min(size, bodyStep))
	for begin := 0; ; {
		if _, err := io.ReadFull(r, body[begin:]); err != nil || len(body) == size {
			return body, err
		}
		begin = len(body)
		more := min(size-begin, begin)
		body = slices.Grow(body, more)[:begin+more]
	}
}

// decode takes the rest of a packet apart. The payload is a part of body.
func (p *packet) decode(first byte, body []byte) error {
	switch p.kind {
	case typePublish:
		return p.decodePublish(first, body)
	case typePingresp:
	case typeConnack:
		p.present, p.code = body[0]&1 == 1, body[1]
	default:
		p.id, p.payload = binary.BigEndian.Uint16(body), body[2:]
	}
	return nil
}

func (p *packet) decodePublish(first byte, body []byte) error {
	p.qos, p.duplicate, p.retain = first>>1&3, first&flagDuplicate != 0, first&flagRetain != 0
	if p.qos > 2 {
		return &malformedError{"a message of qos 3"}
	}
	end := 2 + int(binary.BigEndian.Uint16(body))
	if end == 2 || end > len(body) {
		return &malformedError{fmt.Sprintf("a message of %d bytes whose topic is said to have %d", len(body), end-2)}
	}
	p.topic, p.payload = string(body[2:end]), body[end:]
	if p.qos == 0 {
		return nil
	}
	if len(p.payload) < 2 {
		return &malformedError{"a message without its identifier"}
	}
	p.id, p.payload = binary.BigEndian.Uint16(p.payload), p.payload[2:]
	if p.id == 0 {
		return &malformedError{"a message with the identifier 0"}
	}
	return nil
}

// handshake asks for the session and returns whether the broker had kept it.
func (s *Session) handshake(t *target, r *bufio.Reader, w io.Writer) (present bool, err error) {
	if _, err := w.Write(connectFrame(s, t)); err != nil {
		return false, err
	}
	answer, err := readPacket(r)
	if errors.Is(err, io.EOF) {
		return false, errors.New("it closed the connection without an answer: is it an MQTT broker, is TLS on or off on both sides, and may this client connect?")
	}
	if _, malformed := errors.AsType[*malformedError](err); malformed || err == nil && answer.kind != typeConnack {
		return false, errors.New("it answered with something else than CONNACK: is it an MQTT broker, and is TLS on or off on both sides?")
	}
	if err != nil {
		return false, err
	}
	switch answer.code { // MQTT 3.1.1, section 3.2.2.3
	case 0:
		return answer.present, nil
	case 1:
		return false, &RefusedError{"it does not speak MQTT 3.1.1"}
	case 2:
		return false, &RefusedError{fmt.Sprintf("it does not take the client id %q: set consumerID to another", s.ClientID)}
	case 3:
		return false, errors.New("it says that it is not available")
	case 4:
		return false, &RefusedError{"wrong user name or password: see the url"}
	case 5:
		return false, &RefusedError{"not authorised: see the user and the password in the url, or the client certificate"}
	}
	return false, fmt.Errorf("it refused with the unknown code %d", answer.code)
}
