package mqttclient

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/gorilla/websocket"
)

// dial opens the transport.
func (t *target) dial(ctx context.Context) (net.Conn, error) {
	switch {
	case t.webSocket != "":
		d := websocket.Dialer{Subprotocols: []string{"mqtt"}, TLSClientConfig: t.tls}
		ws, response, err := d.DialContext(ctx, t.webSocket, nil)
		if err != nil {
			if response != nil && errors.Is(err, websocket.ErrBadHandshake) {
				return nil, errors.New("it did not open a WebSocket but answered " + response.Status + ": is the path of the url right?")
			}
			return nil, err
		}
		return &webSocket{Conn: ws}, nil
	case t.tls != nil:
		return (&tls.Dialer{Config: t.tls}).DialContext(ctx, "tcp", t.address)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", t.address)
}

// webSocket makes a stream of a WebSocket's messages. One goroutine may read while another writes.
type webSocket struct {
	*websocket.Conn
	message io.Reader
}

func (w *webSocket) Read(p []byte) (int, error) {
	for {
		if w.message == nil {
			kind, r, err := w.NextReader()
			if err != nil {
				if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway) {
					err = io.EOF
				}
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("the broker sent a text message over WebSocket, where MQTT has binary ones")
			}
			w.message = r
		}
		n, err := w.message.Read(p)
		if errors.Is(err, io.EOF) {
			w.message, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (w *webSocket) Write(p []byte) (int, error) {
	if err := w.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *webSocket) SetDeadline(t time.Time) error {
	return errors.Join(w.SetReadDeadline(t), w.SetWriteDeadline(t))
}
