package consul

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Options are the keys of the name resolution configuration (Dapr API, Consul name resolver). Those that hold objects are
// JSON, whose members are matched without regard to case.
type Options struct {
	Client               string `name:"client" secret:"true" help:"JSON object that says how to reach Consul: address, scheme, datacenter, httpAuth, waitTime, token, tokenFile, tlsConfig; what it leaves out comes from the CONSUL_ environment variables"`
	SelfRegister         bool   `name:"selfRegister" default:"false" help:"register the sidecar at the Consul agent when it starts"`
	SelfDeregister       bool   `name:"selfDeregister" default:"false" help:"take a registration back when the sidecar stops"`
	Checks               string `name:"checks" help:"JSON list of Consul's checks to register; by default one of the sidecar's own health endpoint"`
	Tags                 string `name:"tags" help:"JSON list of tags to register"`
	Meta                 string `name:"meta" help:"JSON object of texts to register as metadata"`
	QueryOptions         string `name:"queryOptions" secret:"true" help:"JSON object of Consul's query options; {\"useCache\":true} by default"`
	DaprPortMetaKey      string `name:"daprPortMetaKey" default:"DAPR_PORT" help:"key of a service's metadata that holds the internal gRPC port of its sidecar"`
	AdvancedRegistration string `name:"advancedRegistration" secret:"true" help:"JSON object to register as it is, of the form of Consul's agent API; in place of selfRegister, checks, tags and meta"`
	UseCache             bool   `name:"useCache" default:"false" help:"keep known services in memory and follow their changes"`

	// Members of client and queryOptions, for configurations without nested objects.
	Address            string        `name:"address" help:"same as client.address: host:port, URL, or unix:///path"`
	Scheme             string        `name:"scheme" help:"same as client.scheme: http or https"`
	Datacenter         string        `name:"datacenter" help:"same as client.datacenter"`
	WaitTime           time.Duration `name:"waitTime" help:"same as client.waitTime"`
	Token              string        `name:"token" secret:"true" help:"same as client.token"`
	TokenFile          string        `name:"tokenFile" help:"same as client.tokenFile"`
	Username           string        `name:"username" help:"same as client.httpAuth.username"`
	Password           string        `name:"password" secret:"true" help:"same as client.httpAuth.password"`
	TLSAddress         string        `name:"tlsAddress" help:"same as client.tlsConfig.address: the name expected in Consul's certificate"`
	CAFile             string        `name:"caFile" help:"same as client.tlsConfig.caFile"`
	CertFile           string        `name:"certFile" help:"same as client.tlsConfig.certFile"`
	KeyFile            string        `name:"keyFile" help:"same as client.tlsConfig.keyFile"`
	InsecureSkipVerify bool          `name:"insecureSkipVerify" default:"false" help:"same as client.tlsConfig.insecureSkipVerify; for tests only"`
	Namespace          string        `name:"namespace" help:"namespace of Consul Enterprise"`
	Partition          string        `name:"partition" help:"admin partition of Consul Enterprise"`
	QueryDatacenter    string        `name:"queryDatacenter" help:"same as queryOptions.datacenter"`
	QueryToken         string        `name:"queryToken" secret:"true" help:"same as queryOptions.token"`
	QueryWaitTime      time.Duration `name:"queryWaitTime" help:"same as queryOptions.waitTime"`
	AllowStale         bool          `name:"allowStale" default:"false" help:"same as queryOptions.allowStale"`
	RequireConsistent  bool          `name:"requireConsistent" default:"false" help:"same as queryOptions.requireConsistent"`

	settings settings
}

// settings are the options in the form in which they are used.
type settings struct {
	client clientSettings
	query  queryOptions
	tags   []string
	meta   map[string]string
	checks []json.RawMessage
	// advanced is nil without an advanced registration.
	advanced map[string]json.RawMessage
}

// clientSettings say how to reach Consul.
type clientSettings struct {
	Address    string   `json:"address"`
	Scheme     string   `json:"scheme"`
	PathPrefix string   `json:"pathPrefix"`
	Datacenter string   `json:"datacenter"`
	Namespace  string   `json:"namespace"`
	Partition  string   `json:"partition"`
	HTTPAuth   httpAuth `json:"httpAuth"`
	WaitTime   duration `json:"waitTime"`
	Token      string   `json:"token"`
	TokenFile  string   `json:"tokenFile"`
	TLS        tlsFiles `json:"tlsConfig"`
}

type httpAuth struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

type tlsFiles struct {
	Address            string `json:"address"`
	CAFile             string `json:"caFile"`
	CAPath             string `json:"caPath"`
	CertFile           string `json:"certFile"`
	KeyFile            string `json:"keyFile"`
	InsecureSkipVerify bool   `json:"insecureSkipVerify"`
}

// queryOptions are those of Consul's Go client, whose names Dapr's configuration has.
type queryOptions struct {
	Namespace         string            `json:"namespace"`
	Partition         string            `json:"partition"`
	Datacenter        string            `json:"datacenter"`
	AllowStale        bool              `json:"allowStale"`
	RequireConsistent bool              `json:"requireConsistent"`
	UseCache          bool              `json:"useCache"`
	MaxAge            duration          `json:"maxAge"`
	StaleIfError      duration          `json:"staleIfError"`
	WaitIndex         uint64            `json:"waitIndex"`
	WaitHash          string            `json:"waitHash"`
	WaitTime          duration          `json:"waitTime"`
	Token             string            `json:"token"`
	Near              string            `json:"near"`
	NodeMeta          map[string]string `json:"nodeMeta"`
	RelayFactor       uint8             `json:"relayFactor"`
	LocalOnly         bool              `json:"localOnly"`
	Connect           bool              `json:"connect"`
	Filter            string            `json:"filter"`
}

// duration is written as nanoseconds, as Dapr has it, or as text such as "10s".
type duration time.Duration

func (d *duration) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		if text == "" {
			return nil
		}
		v, err := time.ParseDuration(text)
		if err != nil {
			return err
		}
		*d = duration(v)
		return nil
	}
	return json.Unmarshal(data, (*int64)(d))
}

// Check reads what is JSON and refuses what contradicts itself. It implements [components.Checker].
func (o *Options) Check() error {
	s := settings{}
	if o.DaprPortMetaKey == "" {
		o.DaprPortMetaKey = "DAPR_PORT"
	}
	if err := decode("client", o.Client, &s.client); err != nil {
		return err
	}
	o.completeClient(&s.client)
	if o.QueryOptions == "" {
		s.query.UseCache = true
	} else if err := decode("queryOptions", o.QueryOptions, &s.query); err != nil {
		return err
	}
	o.completeQuery(&s.query)
	if s.query.AllowStale && s.query.RequireConsistent {
		return errors.New(`metadata properties "allowStale" and "requireConsistent" of "queryOptions" exclude each other; give one of them`)
	}
	if err := o.readRegistration(&s); err != nil {
		return err
	}
	if _, err := s.client.baseURL(); err != nil {
		return err
	}
	o.settings = s
	return nil
}

func (o *Options) completeClient(c *clientSettings) {
	for _, p := range []struct {
		to   *string
		flat string
	}{
		{&c.Address, o.Address},
		{&c.Scheme, o.Scheme},
		{&c.Datacenter, o.Datacenter},
		{&c.Token, o.Token},
		{&c.TokenFile, o.TokenFile},
		{&c.HTTPAuth.Username, o.Username},
		{&c.HTTPAuth.Password, o.Password},
		{&c.TLS.Address, o.TLSAddress},
		{&c.TLS.CAFile, o.CAFile},
		{&c.TLS.CertFile, o.CertFile},
		{&c.TLS.KeyFile, o.KeyFile},
		{&c.Namespace, o.Namespace},
		{&c.Partition, o.Partition},
	} {
		if *p.to == "" {
			*p.to = p.flat
		}
	}
	if c.WaitTime == 0 {
		c.WaitTime = duration(o.WaitTime)
	}
	c.TLS.InsecureSkipVerify = c.TLS.InsecureSkipVerify || o.InsecureSkipVerify
}

func (o *Options) completeQuery(q *queryOptions) {
	if q.Datacenter == "" {
		q.Datacenter = o.QueryDatacenter
	}
	if q.Token == "" {
		q.Token = o.QueryToken
	}
	if q.WaitTime == 0 {
		q.WaitTime = duration(o.QueryWaitTime)
	}
	q.AllowStale = q.AllowStale || o.AllowStale
	q.RequireConsistent = q.RequireConsistent || o.RequireConsistent
}

func (o *Options) readRegistration(s *settings) error {
	if o.AdvancedRegistration != "" {
		if err := decode("advancedRegistration", o.AdvancedRegistration, &s.advanced); err != nil {
			return err
		}
		if s.advanced == nil { // the text is null
			return nil
		}
		if name, err := textMember(s.advanced, "name"); err != nil || name == "" {
			return errors.New(`metadata property "advancedRegistration" has no name; give the app id, as in {"name":"${APP_ID}"}`)
		}
		return nil
	}
	if strings.HasPrefix(strings.TrimSpace(o.Tags), "[") {
		if err := decode("tags", o.Tags, &s.tags); err != nil {
			return err
		}
	} else if o.Tags != "" {
		s.tags = strings.Split(o.Tags, ",")
	}
	if err := decode("checks", o.Checks, &s.checks); err != nil {
		return err
	}
	for i, check := range s.checks {
		if bytes.HasPrefix(bytes.TrimSpace(check), []byte("{")) {
			continue
		}
		return fmt.Errorf(`metadata property "checks": entry %d is %.100s; it must be an object such as {"http":"http://host:port/","interval":"15s"}`, i+1, check)
	}
	var meta map[string]any
	if err := decode("meta", o.Meta, &meta); err != nil {
		return err
	}
	s.meta = map[string]string{}
	for name, value := range meta {
		switch v := value.(type) {
		case string:
			s.meta[name] = v
		case json.Number:
			s.meta[name] = v.String()
		case bool:
			s.meta[name] = fmt.Sprint(v)
		default:
			return fmt.Errorf(`metadata property "meta": the value of %q must be a text`, name)
		}
	}
	return nil
}

// decode reads the JSON of a property, if there is any. Errors do not show the text, which may hold a token.
func decode(property, text string, into any) error {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	err := d.Decode(into)
	if err == nil && d.More() {
		err = errors.New("something follows it")
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		where := property
		if wrong.Field != "" {
			where += "." + wrong.Field
		}
		return fmt.Errorf(`metadata property %q: %s is a JSON %s; it must be %s`, property, where, wrong.Value, jsonKind(wrong.Type.Kind()))
	}
	if err != nil {
		return fmt.Errorf(`metadata property %q is not valid JSON: %w`, property, err)
	}
	return nil
}

// jsonKind is what JSON calls a type of Go.
func jsonKind(k reflect.Kind) string {
	switch k {
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice:
		return "a list"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	default:
		return "a whole number"
	}
}

// member finds a member of an object without regard to case.
func member(object map[string]json.RawMessage, name string) (key string, value json.RawMessage) {
	if v, ok := object[name]; ok {
		return name, v
	}
	for k, v := range object {
		if strings.EqualFold(k, name) {
			return k, v
		}
	}
	return "", nil
}

// textMember is a member that must be a text; empty if it is missing.
func textMember(object map[string]json.RawMessage, name string) (string, error) {
	_, value := member(object, name)
	if value == nil {
		return "", nil
	}
	var text string
	err := json.Unmarshal(value, &text)
	return text, err
}
