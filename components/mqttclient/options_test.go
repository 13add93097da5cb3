package mqttclient

import (
	"strings"
	"testing"
)

func TestTarget(t *testing.T) {
	for _, test := range []struct {
		options   Options
		address   string
		secure    bool
		webSocket string
		user      string
		err       string // what the error must name
	}{
		{options: Options{URL: "mqtt://localhost"}, address: "localhost:1883"},
		{options: Options{URL: " tcp://10.0.0.1:1884 "}, address: "10.0.0.1:1884"},
		{options: Options{URL: "mqtt://ann:s3:cret@h"}, address: "h:1883", user: "ann/s3:cret"},
		{options: Options{URL: "mqtt://ann:p%40ss@h/"}, address: "h:1883", user: "ann/p@ss"},
		{options: Options{URL: "mqtts://h"}, address: "h:8883", secure: true},
		{options: Options{URL: "SSL://h:1"}, address: "h:1", secure: true},
		{options: Options{URL: "tls://[::1]:8883"}, address: "[::1]:8883", secure: true},
		{options: Options{URL: "ws://ann:pw@h/mqtt?a=b"}, address: "h:80", webSocket: "ws://h:80/mqtt?a=b", user: "ann/pw"},
		{options: Options{URL: "wss://h"}, address: "h:443", secure: true, webSocket: "wss://h:443"},
		{options: Options{URL: "localhost:1883"}, err: `scheme "localhost"`},
		{options: Options{URL: "http://h"}, err: `scheme "http"`},
		{options: Options{URL: "mqtt://"}, err: "no host"},
		{options: Options{URL: "mqtt://h:0"}, err: `port "0"`},
		{options: Options{URL: "mqtt://h:70000"}, err: `port "70000"`},
		{options: Options{URL: "mqtt://h/path"}, err: `path "/path"`},
		{options: Options{URL: "mqtt://:pw@h"}, err: "without a user"},
		{options: Options{URL: "mqtt://ann:hidden@h:x"}, err: `"url" is not a URL`},
		{options: Options{URL: "mqtt://ann:x/hidden@h"}, err: "%2F for /"},
		{options: Options{URL: "mqtt://ann:1/hidden@h"}, err: "%2F for /"},
		{options: Options{URL: "mqtt://ann:%zhidden@h"}, err: "user:password@host"},
		{options: Options{URL: "mqtt://h:x"}, err: `"url" is not a URL: invalid port`},
		{options: Options{URL: "mqtt://" + strings.Repeat("u", longestTopic+1) + ":hidden@h"}, err: "65536 bytes"},
		{options: Options{URL: "mqtt://h", CACert: "-----BEGIN"}, err: `"caCert" is given, but "url" begins with mqtt://`},
		{options: Options{URL: "mqtts://h", CACert: "-----BEGIN"}, err: `"caCert" holds no certificate`},
		{options: Options{URL: "mqtts://h", CACert: "/no/such/file"}, err: `"caCert" is neither`},
		{options: Options{URL: "mqtts://h", ClientCert: "-----BEGIN"}, err: "together"},
		{options: Options{URL: "mqtts://h", ClientCert: "-----BEGIN", ClientKey: "-----BEGIN"}, err: "no pair"},
	} {
		got, err := test.options.target()
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) || strings.Contains(err.Error(), "hidden") {
				t.Errorf("%s: error %v, want one with %s and without the password", test.options.URL, err, test.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.options.URL, err)
			continue
		}
		user := ""
		if got.withUsername {
			user = got.username + "/" + got.password
		}
		if got.address != test.address || (got.tls != nil) != test.secure || got.webSocket != test.webSocket || user != test.user {
			t.Errorf("%s: %+v, want %+v", test.options.URL, got, test)
		}
		if strings.Contains(got.shown, "@") {
			t.Errorf("%s is shown with its user: %s", test.options.URL, got.shown)
		}
	}
}
