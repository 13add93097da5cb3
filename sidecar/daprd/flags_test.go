package daprd

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"outrigger.dev/sidecar"
)

// optionsOf parses a command line as Main does.
func optionsOf(t *testing.T, env map[string]string, args ...string) (sidecar.Options, *flags, error) {
	t.Helper()
	f := newFlags(&bytes.Buffer{})
	if err := f.set.Parse(doubleDashes(args)); err != nil {
		t.Fatalf("parse %q: %v", args, err)
	}
	o := sidecar.Defaults()
	if err := f.parse(&o); err != nil {
		return o, f, err
	}
	err := f.options(&o, func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	})
	return o, f, err
}

func TestDefaultsAreThoseOfTheSidecar(t *testing.T) {
	o, _, err := optionsOf(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := sidecar.Defaults()
	o.Registry, o.LookupEnv = nil, nil
	// Flags that were not given leave empty lists and ports that are not served.
	o.ConfigPaths, o.ResourcesPaths, o.SchedulerAddresses, o.DisableInitEndpoints = nil, nil, nil, nil
	if !reflect.DeepEqual(o, want) {
		t.Errorf("options without flags are\n%+v\nwant\n%+v", o, want)
	}
}

func TestOptions(t *testing.T) {
	yes, no := true, false
	tests := []struct {
		name string
		args []string
		env  map[string]string
		got  func(o sidecar.Options) any
		want any
	}{
		{"app id", []string{"--app-id", "a"}, nil, func(o sidecar.Options) any { return o.AppID }, "a"},
		{"one dash", []string{"-app-id", "a"}, nil, func(o sidecar.Options) any { return o.AppID }, "a"},
		{"one dash and equals sign", []string{"-app-id=a"}, nil, func(o sidecar.Options) any { return o.AppID }, "a"},
		{"app port", []string{"--app-port", "80"}, nil, func(o sidecar.Options) any { return o.AppPort }, 80},
		{"protocol in capitals", []string{"--app-protocol", "GRPC"}, nil, func(o sidecar.Options) any { return o.AppProtocol }, "grpc"},
		{"app-ssl with http", []string{"--app-ssl"}, nil, func(o sidecar.Options) any { return o.AppProtocol }, "https"},
		{"app-ssl with grpc", []string{"--app-ssl", "--app-protocol", "grpc"}, nil, func(o sidecar.Options) any { return o.AppProtocol }, "grpcs"},
		{"app-ssl with h2c", []string{"--app-ssl", "--app-protocol", "h2c"}, nil, func(o sidecar.Options) any { return o.AppProtocol }, "h2c"},
		{"listen addresses", []string{"--dapr-listen-addresses", "[::1],127.0.0.1"}, nil, func(o sidecar.Options) any { return o.ListenAddresses }, []string{"[::1]", "127.0.0.1"}},
		{"unused profile port", []string{"--profile-port", "-1"}, nil, func(o sidecar.Options) any { return o.ProfilePort }, 7777},
		{"unused metrics port", []string{"--enable-metrics=false", "--metrics-port", "x"}, nil, func(o sidecar.Options) any { return o.EnableMetrics }, false},
		{"API log not given", nil, nil, func(o sidecar.Options) any { return o.EnableAPILogging }, (*bool)(nil)},
		{"API log on", []string{"--enable-api-logging"}, nil, func(o sidecar.Options) any { return o.EnableAPILogging }, &yes},
		{"API log off", []string{"--enable-api-logging=false"}, nil, func(o sidecar.Options) any { return o.EnableAPILogging }, &no},
		{"configs", []string{"--config", "a,b", "--config", "c"}, nil, func(o sidecar.Options) any { return o.ConfigPaths }, []string{"a", "b", "c"}},
		{"components path", []string{"--components-path", "old"}, nil, func(o sidecar.Options) any { return o.ResourcesPaths }, []string{"old"}},
		{"resources path wins", []string{"--components-path", "old", "--resources-path", "new"}, nil, func(o sidecar.Options) any { return o.ResourcesPaths }, []string{"new"}},
		{"body size", []string{"--max-body-size", "16Mi"}, nil, func(o sidecar.Options) any { return o.MaxBodySize }, int64(16 << 20)},
		{"body size default", []string{"--max-body-size", "-1"}, nil, func(o sidecar.Options) any { return o.MaxBodySize }, int64(4 << 20)},
		{"body size without limit", []string{"--max-body-size", "0"}, nil, func(o sidecar.Options) any { return o.MaxBodySize }, int64(0)},
		{"old body size", []string{"--dapr-http-max-request-size", "2"}, nil, func(o sidecar.Options) any { return o.MaxBodySize }, int64(2 << 20)},
		{"old body size loses", []string{"--dapr-http-max-request-size", "2", "--max-body-size", "1Mi"}, nil, func(o sidecar.Options) any { return o.MaxBodySize }, int64(1 << 20)},
		{"read buffer", []string{"--read-buffer-size", "8Ki"}, nil, func(o sidecar.Options) any { return o.ReadBufferSize }, int64(8 << 10)},
		{"old read buffer", []string{"--dapr-http-read-buffer-size", "8"}, nil, func(o sidecar.Options) any { return o.ReadBufferSize }, int64(8 << 10)},
		{"graceful", []string{"--dapr-graceful-shutdown-seconds", "7"}, nil, func(o sidecar.Options) any { return o.GracefulShutdown }, 7 * time.Second},
		{"graceful without limit", []string{"--dapr-graceful-shutdown-seconds", "0"}, nil, func(o sidecar.Options) any { return o.GracefulShutdown }, time.Duration(0)},
		{"negative graceful", []string{"--dapr-graceful-shutdown-seconds", "-2"}, nil, func(o sidecar.Options) any { return o.GracefulShutdown }, 5 * time.Second},
		{"block", []string{"--dapr-block-shutdown-duration", "2s"}, nil, func(o sidecar.Options) any { return o.BlockShutdown }, 2 * time.Second},
		{"health path", []string{"--app-health-check-path", "up"}, nil, func(o sidecar.Options) any { return o.AppHealthCheckPath }, "/up"},
		{"health interval", []string{"--app-health-probe-interval", "0"}, nil, func(o sidecar.Options) any { return o.AppHealthProbeInterval }, 5 * time.Second},
		{"health timeout", []string{"--app-health-probe-timeout", "200"}, nil, func(o sidecar.Options) any { return o.AppHealthProbeTimeout }, 200 * time.Millisecond},
		{"health threshold", []string{"--app-health-threshold", "99999999999"}, nil, func(o sidecar.Options) any { return o.AppHealthThreshold }, 3},
		{"placement", []string{"--placement-host-address", "a:1,b:2"}, nil, func(o sidecar.Options) any { return o.PlacementAddresses }, []string{"a:1", "b:2"}},
		{"quoted empty placement", []string{"--placement-host-address", `""`}, nil, func(o sidecar.Options) any { return o.PlacementAddresses }, []string(nil)},
		{"scheduler from DNS", nil, map[string]string{"DAPR_SCHEDULER_HOST_ADDRESS_DNS_A": "a:1,b:1"}, func(o sidecar.Options) any { return o.SchedulerAddresses }, []string{"a:1", "b:1"}},
		{"scheduler flag wins", []string{"--scheduler-host-address", "c:1"}, map[string]string{"DAPR_SCHEDULER_HOST_ADDRESS_DNS_A": "a:1"}, func(o sidecar.Options) any { return o.SchedulerAddresses }, []string{"c:1"}},
		{"environment", nil, map[string]string{"NAMESPACE": "ns", "DAPR_HOST_IP": "10.0.0.1", "DAPR_API_TOKEN": "t", "APP_API_TOKEN": "u", "DAPR_HTTP_DISABLE_H2C": " Yes "}, func(o sidecar.Options) any {
			return []any{o.Namespace, o.HostAddress, o.APIToken, o.AppToken, o.DisableH2C}
		}, []any{"ns", "10.0.0.1", "t", "u", true}},
		{"default resolver", nil, map[string]string{DefaultResolverVariable: "/x.db"}, func(o sidecar.Options) any {
			return []any{o.NameResolution, o.NameResolutionProperties["connectionString"]}
		}, []any{"sqlite", "/x.db"}},
		{"environment of configuration files", []string{"--app-id", "a", "--dapr-http-port", "3501"}, map[string]string{"APP_ID": "other", "HOME": "/h"}, func(o sidecar.Options) any {
			id, _ := o.LookupEnv("APP_ID")
			app, _ := o.LookupEnv("APP_PORT")
			port, _ := o.LookupEnv("DAPR_HTTP_PORT")
			home, _ := o.LookupEnv("HOME")
			_, unset := o.LookupEnv("HOST_ADDRESS")
			return []any{id, app, port, home, unset}
		}, []any{"a", "0", "3501", "/h", false}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, _, err := optionsOf(t, tt.env, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			if got := tt.got(o); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %#v, want %#v", got, tt.want)
			}
		})
	}
}

func TestRefusedOptions(t *testing.T) {
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"--mode", "moon"}, "invalid mode: moon"},
		{[]string{"--scheduler-job-streams", "0"}, "must define at least 1 scheduler stream, got 0"},
		{[]string{"--control-plane-trust-domain", ""}, "control-plane-trust-domain"},
		{[]string{"--app-port", "x"}, `error parsing 'app-port' flag: "x" is not a number`},
		{[]string{"--dapr-grpc-port", "70000"}, "error parsing 'dapr-grpc-port' flag: 70000 is not a port"},
		{[]string{"--enable-profiling", "--profile-port", "-1"}, "profile-port"},
		{[]string{"--max-body-size", "4MB"}, `invalid value for --max-body-size: "4MB"`},
		{[]string{"--read-buffer-size", ""}, "invalid value for --read-buffer-size"},
		{[]string{"--actors-disseminate-timeout", "0s"}, "--actors-disseminate-timeout"},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			_, _, err := optionsOf(t, nil, tt.args...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// TestActorFlags has the flags of placement and the scheduler, with their old spelling and the variable that stands in for a flag.
func TestActorFlags(t *testing.T) {
	dns := map[string]string{"DAPR_SCHEDULER_HOST_ADDRESS_DNS_A": "s1:50006,s2:50006"}
	for _, c := range []struct {
		args                 []string
		env                  map[string]string
		placement, scheduler []string
		streams              int
		disseminate          time.Duration
	}{
		{nil, nil, nil, nil, 3, 30 * time.Second},
		{[]string{"--placement-host-address", ` "" `, "--scheduler-host-address", ""}, dns, nil, nil, 3, 30 * time.Second},
		{[]string{"--placement-host-address", "a:1, b:2"}, dns, []string{"a:1", "b:2"}, []string{"s1:50006", "s2:50006"}, 3, 30 * time.Second},
		{[]string{"--actors-service", "placement:a:1,b:2", "--scheduler-host-address", "c:3,d:4", "--scheduler-job-streams", "1", "--actors-disseminate-timeout", "5s"}, dns, []string{"a:1", "b:2"}, []string{"c:3", "d:4"}, 1, 5 * time.Second},
		{[]string{"--actors-service", "placement:a:1", "--placement-host-address", "b:2"}, nil, []string{"b:2"}, nil, 3, 30 * time.Second},
	} {
		o, _, err := optionsOf(t, c.env, append(c.args, "--app-id", "x")...)
		if err != nil {
			t.Errorf("%q: %v", c.args, err)
			continue
		}
		if !slices.Equal(o.PlacementAddresses, c.placement) || !slices.Equal(o.SchedulerAddresses, c.scheduler) || o.SchedulerJobStreams != c.streams || o.ActorsDisseminateTimeout != c.disseminate {
			t.Errorf("%q: placement %q, scheduler %q, %d streams, %s", c.args, o.PlacementAddresses, o.SchedulerAddresses, o.SchedulerJobStreams, o.ActorsDisseminateTimeout)
		}
	}
	for _, c := range []struct{ flag, value string }{{"--scheduler-job-streams", "0"}, {"--actors-disseminate-timeout", "0s"}, {"--actors-service", "redis:a:1"}} {
		if _, _, err := optionsOf(t, nil, c.flag, c.value, "--app-id", "x"); err == nil {
			t.Errorf("%s %s is taken", c.flag, c.value)
		}
	}
}

func TestDoubleDashes(t *testing.T) {
	got := doubleDashes([]string{"-app-id", "x", "--mode", "-1", "-12", "-h", "-log-level=info", "a-b"})
	want := []string{"--app-id", "x", "--mode", "-1", "-12", "-h", "--log-level=info", "a-b"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
