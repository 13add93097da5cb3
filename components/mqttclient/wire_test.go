package mqttclient

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func decoded(text string) (packet, error) {
	return readPacket(bufio.NewReader(iotest.OneByteReader(strings.NewReader(text))))
}

func TestReadPacket(t *testing.T) {
	long := strings.Repeat("x", bodyStep*2+5)
	for _, test := range []struct {
		name, text string
		want       packet
	}{
		{"CONNACK", "\x20\x02\x01\x00", packet{kind: typeConnack, present: true}},
		{"CONNACK that refuses", "\x20\x02\x00\x05", packet{kind: typeConnack, code: 5}},
		{"PUBLISH", "\x30\x05\x00\x01ahi", packet{kind: typePublish, topic: "a", payload: []byte("hi")}},
		{"PUBLISH without data", "\x31\x03\x00\x01a", packet{kind: typePublish, topic: "a", retain: true}},
		{"PUBLISH qos 1", "\x3a\x07\x00\x01a\x01\x02hi", packet{kind: typePublish, topic: "a", id: 0x102, qos: 1, duplicate: true, payload: []byte("hi")}},
		{"PUBLISH qos 2", "\x35\x05\x00\x01a\xff\xff", packet{kind: typePublish, topic: "a", id: 0xffff, qos: 2, retain: true}},
		{"PUBLISH, large", string(publishFrame(&Publication{Topic: "a", Payload: []byte(long), QoS: 1}, 9)), packet{kind: typePublish, topic: "a", id: 9, qos: 1, payload: []byte(long)}},
		{"PUBACK", "\x40\x02\x00\x07", packet{kind: typePuback, id: 7}},
		{"PUBREC", "\x50\x02\x00\x07", packet{kind: typePubrec, id: 7}},
		{"PUBREL", "\x62\x02\x00\x07", packet{kind: typePubrel, id: 7}},
		{"PUBCOMP", "\x70\x02\x00\x07", packet{kind: typePubcomp, id: 7}},
		{"SUBACK", "\x90\x03\x00\x07\x80", packet{kind: typeSuback, id: 7, payload: []byte("\x80")}},
		{"UNSUBACK", "\xb0\x02\x00\x07", packet{kind: typeUnsuback, id: 7}},
		{"PINGRESP", "\xd0\x00", packet{kind: typePingresp}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := decoded(test.text)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.payload, test.want.payload) {
				t.Errorf("payload of %d bytes, want %d", len(got.payload), len(test.want.payload))
			}
			got.payload, test.want.payload = nil, nil
			if !equal(got, test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			for n := 1; n < min(len(test.text), 20); n++ {
				if _, err := decoded(test.text[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("the first %d bytes: %v", n, err)
				}
			}
		})
	}
	if _, err := decoded(""); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func equal(a, b packet) bool {
	return a.kind == b.kind && a.id == b.id && a.topic == b.topic && bytes.Equal(a.payload, b.payload) &&
		a.qos == b.qos && a.duplicate == b.duplicate && a.retain == b.retain && a.present == b.present && a.code == b.code
}

func TestReadPacketMalformed(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"for brokers", "\x82\x06\x00\x01\x00\x01a\x01", "0x82"},
		{"type 0", "\x00\x00", "0x00"},
		{"type 15", "\xf0\x00", "0xf0"},
		{"HTTP", "HTTP/1.1 400 Bad Request\r\n", "type 4 with 84 bytes"},
		{"length of five bytes", "\x30\x80\x80\x80\x80\x01", "more than four bytes"},
		{"CONNACK, short", "\x20\x01\x00", "type 2"},
		{"CONNACK, long", "\x20\x03\x00\x00\x00", "type 2"},
		{"PUBACK, short", "\x40\x01\x00", "type 4"},
		{"PUBACK, long", "\x40\x03\x00\x01\x00", "type 4"},
		{"SUBACK, short", "\x90\x01\x00", "type 9"},
		{"PINGRESP, long", "\xd0\x01\x00", "type 13"},
		{"PUBLISH, qos 3", "\x36\x05\x00\x01a\x00\x01", "qos 3"},
		{"PUBLISH, empty", "\x30\x00", "type 3 with 0 bytes"},
		{"PUBLISH, no topic", "\x30\x03\x00\x00x", "topic is said to have 0"},
		{"PUBLISH, short topic", "\x30\x03\x00\x02a", "topic is said to have 2"},
		{"PUBLISH, no identifier", "\x32\x04\x00\x01a\x00", "without its identifier"},
		{"PUBLISH, identifier 0", "\x32\x05\x00\x01a\x00\x00", "identifier 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := decoded(test.text)
			if _, ok := errors.AsType[*malformedError](err); !ok || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %s", err, test.want)
			}
		})
	}
}

// A length is believed only as far as the bytes come.
func TestReadPacketTakesLittleMemory(t *testing.T) {
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := readPacket(bufio.NewReader(strings.NewReader("\x30\xff\xff\xff\x7f" + "short"))); !errors.Is(err, io.ErrUnexpectedEOF) {
				b.Errorf("error %v", err)
			}
		}
	})
	if took := result.AllocedBytesPerOp(); took > 2*bodyStep {
		t.Errorf("%d bytes were taken", took)
	}
}

// FuzzReadPacket reads what a broker could send: whatever it is, it is told apart from MQTT or comes out as it would be written.
func FuzzReadPacket(f *testing.F) {
	for _, text := range []string{
		"\x20\x02\x01\x00", "\x30\x05\x00\x01ahi", "\x3a\x07\x00\x01a\x01\x02hi", "\x40\x02\x00\x07", "\x62\x02\x00\x07",
		"\x90\x03\x00\x07\x80", "\xd0\x00", "\x30\xff\xff\xff\x7f", "\x30\x80\x80\x80\x80\x01", "\x20\x02\x00\x00\xd0\x00\x40\x02\x00\x01",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReader(bytes.NewReader(data))
		for {
			p, err := readPacket(r)
			if err != nil {
				if _, malformed := errors.AsType[*malformedError](err); !malformed && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("error %T: %v", err, err)
				}
				return
			}
			if p.kind != typePublish {
				continue
			}
			frame := publishFrame(&Publication{Topic: p.topic, Payload: p.payload, QoS: p.qos, Retain: p.retain}, p.id)
			if p.duplicate {
				frame[0] |= flagDuplicate
			}
			again, err := readPacket(bufio.NewReader(bytes.NewReader(frame)))
			if err != nil || !equal(p, again) {
				t.Fatalf("%+v is written as %q, which reads as %+v, %v", p, frame, again, err)
			}
		}
	})
}

func TestFrames(t *testing.T) {
	for _, test := range []struct {
		name string
		got  []byte
		want string
	}{
		{"CONNECT", connectFrame(&Session{ClientID: "me"}, &target{}), "\x10\x0e\x00\x04MQTT\x04\x00\x00\x1e\x00\x02me"},
		{
			"CONNECT with all", connectFrame(&Session{ClientID: "me", CleanSession: true}, &target{username: "u", password: "pw", withUsername: true, withSecret: true}),
			"\x10\x15\x00\x04MQTT\x04\xc2\x00\x1e\x00\x02me\x00\x01u\x00\x02pw",
		},
		{"PUBLISH", publishFrame(&Publication{Topic: "a/b", Payload: []byte("hi")}, 5), "\x30\x07\x00\x03a/bhi"},
		{"PUBLISH qos 2", publishFrame(&Publication{Topic: "a/b", Payload: []byte("hi"), QoS: 2, Retain: true}, 0x1234), "\x35\x09\x00\x03a/b\x12\x34hi"},
		{"SUBSCRIBE", subscribeFrame("a/#", 1, 0x0102), "\x82\x08\x01\x02\x00\x03a/#\x01"},
		{"UNSUBSCRIBE", unsubscribeFrame("a/#", 0x0102), "\xa2\x07\x01\x02\x00\x03a/#"},
		{"PUBREL", idFrame(firstPubrel, 0x0102), "\x62\x02\x01\x02"},
		{"length of two bytes", appendLength(nil, 321), "\xc1\x02"},
		{"largest length", appendLength(nil, largestPacket), "\xff\xff\xff\x7f"},
	} {
		if string(test.got) != test.want {
			t.Errorf("%s is %q, want %q", test.name, test.got, test.want)
		}
	}
}

// recorder is a connection that notes how it is used.
type recorder struct {
	net.Conn
	writes         []int
	reads, written int // deadlines
}

func (r *recorder) Read([]byte) (int, error) { return 0, io.EOF }
func (r *recorder) Write(p []byte) (int, error) {
	r.writes = append(r.writes, len(p))
	return len(p), nil
}
func (r *recorder) SetReadDeadline(time.Time) error  { r.reads++; return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { r.written++; return nil }

// The limits of a connection begin anew with each chunk; but only chunks with more to come hold off the limit of silence, or
// a dead connection would not be noticed for the pings.
func TestLimitsOfLargePackets(t *testing.T) {
	for _, test := range []struct{ size, chunks int }{{0, 1}, {2, 1}, {writeChunk, 1}, {writeChunk + 1, 2}, {5 * writeChunk, 5}} {
		var r recorder
		n, err := patient{&r}.Write(make([]byte, test.size))
		if n != test.size || err != nil || len(r.writes) != test.chunks || r.written != test.chunks || r.reads != test.chunks-1 {
			t.Errorf("%d bytes: %d, %v, in chunks of %v, with %d and %d deadlines", test.size, n, err, r.writes, r.written, r.reads)
		}
	}
	var r recorder
	if _, err := (patient{&r}).Read(nil); !errors.Is(err, io.EOF) || r.reads != 1 {
		t.Errorf("read: %v with %d deadlines", err, r.reads)
	}
}
