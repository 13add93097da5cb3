package consul

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"

	"outrigger.dev/components"
)

// service is a registration in the form of Consul's agent API.
type service struct {
	ID      string
	Name    string
	Address string
	Port    int
	Tags    []string          `json:",omitempty"`
	Meta    map[string]string `json:",omitempty"`
	Checks  []json.RawMessage `json:",omitempty"`
}

// check is a health check by HTTP in the same form.
type check struct {
	Name     string
	CheckID  string
	Interval string
	HTTP     string
}

// registration is the body that registers the sidecar, and the id of the service; nil when nothing is to be registered.
func (r *Resolver) registration(s components.Sidecar) (body []byte, id string, err error) {
	if r.settings.advanced == nil && !r.options.SelfRegister {
		return nil, "", nil
	}
	if s.InternalPort <= 0 {
		return nil, "", fmt.Errorf("cannot register at Consul: the internal gRPC port of the sidecar is %d", s.InternalPort)
	}
	if r.settings.advanced != nil {
		return r.advancedRegistration(s)
	}
	switch {
	case s.AppID == "":
		return nil, "", errors.New("cannot register at Consul: the sidecar has no app id; start it with --app-id")
	case s.HostAddress == "":
		return nil, "", errors.New("cannot register at Consul: the host address of the sidecar is not known; set the environment variable DAPR_HOST_IP")
	case s.AppPort <= 0:
		return nil, "", errors.New("cannot register at Consul: the app has no port, which a registration needs; start the sidecar with --app-port, or use advancedRegistration")
	}
	sv := service{
		ID:   s.AppID + "-" + s.HostAddress + "-" + strconv.Itoa(s.HTTPPort),
		Name: s.AppID, Address: s.HostAddress, Port: s.AppPort, Tags: r.settings.tags, Checks: r.settings.checks,
		Meta: map[string]string{r.options.DaprPortMetaKey: strconv.Itoa(s.InternalPort)},
	}
	for name, value := range r.settings.meta {
		if name != r.options.DaprPortMetaKey {
			sv.Meta[name] = value
		}
	}
	if r.options.Checks == "" {
		health, err := json.Marshal(check{
			Name: "Dapr Health Status", CheckID: "daprHealth:" + sv.ID, Interval: "15s",
			HTTP: "http://" + net.JoinHostPort(s.HostAddress, strconv.Itoa(s.HTTPPort)) + "/v1.0/healthz?appid=" + url.QueryEscape(s.AppID),
		})
		if err != nil {
			return nil, "", err
		}
		sv.Checks = []json.RawMessage{health}
	}
	body, err = json.Marshal(sv)
	return body, sv.ID, err
}

// advancedRegistration is what the configuration says, with the port of the sidecar in the metadata unless it is there.
func (r *Resolver) advancedRegistration(s components.Sidecar) (body []byte, id string, err error) {
	object := make(map[string]json.RawMessage, len(r.settings.advanced)+1)
	for name, value := range r.settings.advanced {
		object[name] = value
	}
	key, value := member(object, "meta")
	var meta map[string]json.RawMessage
	if value != nil && !bytes.Equal(value, []byte("null")) {
		if err := json.Unmarshal(value, &meta); err != nil {
			return nil, "", fmt.Errorf(`metadata property "advancedRegistration": its meta is %.100s; it must be an object of texts`, value)
		}
	}
	if port := meta[r.options.DaprPortMetaKey]; port == nil || bytes.Equal(port, []byte(`""`)) {
		if meta == nil {
			meta = map[string]json.RawMessage{}
		}
		meta[r.options.DaprPortMetaKey] = json.RawMessage(strconv.Quote(strconv.Itoa(s.InternalPort)))
	}
	if key == "" {
		key = "Meta"
	}
	if object[key], err = json.Marshal(meta); err != nil {
		return nil, "", err
	}
	id, err = textMember(object, "id")
	if err == nil && id == "" {
		id, err = textMember(object, "name") // as Consul does
	}
	if err != nil {
		return nil, "", fmt.Errorf(`metadata property "advancedRegistration": its id must be a text: %w`, err)
	}
	body, err = json.Marshal(object)
	return body, id, err
}
