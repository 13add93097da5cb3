package cli

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// instanceInfo is a running sidecar with its app (Dapr CLI, list).
type instanceInfo struct {
	AppID              string `json:"appId"`
	HTTPPort           int    `json:"httpPort"`
	GRPCPort           int    `json:"grpcPort"`
	AppPort            int    `json:"appPort"`
	MetricsEnabled     bool   `json:"metricsEnabled"`
	Command            string `json:"command"`
	Age                string `json:"age"`
	Created            string `json:"created"`
	DaprdPID           int    `json:"daprdPid"`
	CLIPID             int    `json:"cliPid"`
	AppPID             int    `json:"appPid"`
	MaxRequestBodySize int    `json:"maxRequestBodySize"`
	HTTPReadBufferSize int    `json:"httpReadBufferSize"`
	RunTemplatePath    string `json:"runTemplatePath"`
	AppLogPath         string `json:"appLogPath"`
	DaprdLogPath       string `json:"daprdLogPath"`
	RunTemplateName    string `json:"runTemplateName"`

	socket string // the directory of the API sockets, empty for ports
}

// daprdProcess is a process whose program is daprd.
type daprdProcess struct {
	pid     int
	args    []string // without the program's name
	dir     string   // its working directory, if known
	started time.Time
}

// findInstances lists the running sidecars in the order of their process ids.
func findInstances(ctx context.Context) ([]instanceInfo, error) {
	processes, err := daprdProcesses(ctx)
	if err != nil {
		return nil, err
	}
	var found []instanceInfo
	for _, p := range processes {
		if info, ok := describe(p, time.Now()); ok {
			found = append(found, info)
		}
	}
	var asking sync.WaitGroup
	for i := range found {
		asking.Go(func() { found[i].ask(ctx) })
	}
	asking.Wait()
	return found, nil
}

// describe reads the command line of a sidecar; one without app id is none.
func describe(p daprdProcess, now time.Time) (instanceInfo, bool) {
	flags := commandLine(p.args)
	number := func(name string, standard int) int {
		if n, err := strconv.Atoi(flags[name]); err == nil {
			return n
		}
		return standard
	}
	info := instanceInfo{
		AppID: flags["app-id"], HTTPPort: number("dapr-http-port", 3500), GRPCPort: number("dapr-grpc-port", 50001), AppPort: number("app-port", 0),
		MetricsEnabled: true, DaprdPID: p.pid, MaxRequestBodySize: 4 << 20, HTTPReadBufferSize: 4 << 10,
	}
	if enabled, err := strconv.ParseBool(flags["enable-metrics"]); err == nil {
		info.MetricsEnabled = enabled
	}
	if !p.started.IsZero() {
		info.Age, info.Created = age(now.Sub(p.started)), p.started.Local().Format(createdLayout)
	}
	if dir := flags["unix-domain-socket"]; dir != "" {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(p.dir, dir)
		}
		info.socket = filepath.Join(dir, "dapr-"+info.AppID+"-http.socket")
	}
	return info, info.AppID != ""
}

// commandLine reads "--flag value" and "--flag=value", with one dash or two; a flag without value is "true".
func commandLine(args []string) map[string]string {
	flags := map[string]string{}
	for i := 0; i < len(args); i++ {
		name := strings.TrimLeft(args[i], "-")
		if name == args[i] {
			continue
		}
		name, value, found := strings.Cut(name, "=")
		switch {
		case found:
		case i+1 < len(args) && (!strings.HasPrefix(args[i+1], "-") || isNumber(args[i+1])):
			i++
			value = args[i]
		default:
			value = "true"
		}
		flags[name] = value
	}
	return flags
}

func isNumber(s string) bool {
	_, err := strconv.Atoi(s)
	return err == nil
}

// ask adds what the sidecar's metadata tells; one that does not answer is listed without.
func (i *instanceInfo) ask(ctx context.Context) {
	client := newSidecarClient(i.HTTPPort, i.socket)
	defer client.close()
	extended, err := client.extended(ctx)
	if err != nil {
		return
	}
	number := func(key string) int {
		n, _ := strconv.Atoi(extended[key]) // 0 is unknown
		return n
	}
	i.CLIPID, i.AppPID = number("cliPID"), number("appPID")
	i.Command = extended["appCommand"]
	i.RunTemplatePath, i.RunTemplateName = extended["runTemplatePath"], extended["runTemplateName"]
	i.AppLogPath, i.DaprdLogPath = extended["appLogPath"], extended["daprdLogPath"]
}
