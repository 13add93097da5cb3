package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"

	"go.yaml.in/yaml/v3"
)

// runFile is a multi-app run file (Dapr CLI, run -f: schema).
type runFile struct {
	Version int        `yaml:"version"`
	Name    string     `yaml:"name"`
	Common  sharedKeys `yaml:"common"`
	Apps    []runApp   `yaml:"apps"`
}

// runApp is an entry of apps.
type runApp struct {
	sharedKeys `yaml:",inline"`

	AppDirPath         string   `yaml:"appDirPath"`
	AppID              string   `yaml:"appID"`
	AppPort            int      `yaml:"appPort"`
	AppChannelAddress  string   `yaml:"appChannelAddress"`
	DaprHTTPPort       int      `yaml:"daprHTTPPort"`
	DaprGRPCPort       int      `yaml:"daprGRPCPort"`
	DaprInternalPort   int      `yaml:"daprInternalGRPCPort"`
	MetricsPort        int      `yaml:"metricsPort"`
	ProfilePort        int      `yaml:"profilePort"`
	UnixDomainSocket   string   `yaml:"unixDomainSocket"`
	Command            []string `yaml:"command"`
	ContainerImage     string   `yaml:"containerImage"`
	CreateService      bool     `yaml:"createService"`
	ContainerImagePull string   `yaml:"containerImagePullPolicy"`
}

// sharedKeys may stand in common and in each app.
type sharedKeys struct {
	ResourcesPaths         []string          `yaml:"resourcesPaths"`
	ResourcesPath          string            `yaml:"resourcesPath"`
	ConfigFilePath         string            `yaml:"configFilePath"`
	RuntimePath            string            `yaml:"runtimePath"`
	AppProtocol            string            `yaml:"appProtocol"`
	AppSSL                 bool              `yaml:"appSSL"`
	AppMaxConcurrency      int               `yaml:"appMaxConcurrency"`
	APIListenAddresses     string            `yaml:"apiListenAddresses"`
	PlacementHostAddress   *string           `yaml:"placementHostAddress"`
	SchedulerHostAddress   *string           `yaml:"schedulerHostAddress"`
	LogLevel               string            `yaml:"logLevel"`
	MaxBodySize            string            `yaml:"maxBodySize"`
	ReadBufferSize         string            `yaml:"readBufferSize"`
	EnableProfiling        bool              `yaml:"enableProfiling"`
	EnableAPILogging       bool              `yaml:"enableApiLogging"`
	EnableAppHealthCheck   bool              `yaml:"enableAppHealthCheck"`
	AppHealthCheckPath     string            `yaml:"appHealthCheckPath"`
	AppHealthProbeInterval int               `yaml:"appHealthProbeInterval"`
	AppHealthProbeTimeout  int               `yaml:"appHealthProbeTimeout"`
	AppHealthThreshold     int               `yaml:"appHealthThreshold"`
	Env                    map[string]string `yaml:"env"`
	DaprdLogDestination    string            `yaml:"daprdLogDestination"`
	AppLogDestination      string            `yaml:"appLogDestination"`
}

// plannedApp is an app of a run file, ready to start.
type plannedApp struct {
	appSpec
	daprdLog, appLog destination
}

// destination is where a log goes.
type destination struct{ file, console bool }

func parseDestination(text, standard string) (destination, error) {
	if text == "" {
		text = standard
	}
	switch text {
	case "file":
		return destination{file: true}, nil
	case "console":
		return destination{console: true}, nil
	case "fileAndConsole":
		return destination{file: true, console: true}, nil
	}
	return destination{}, fmt.Errorf("invalid log destination type: %s; use file, console or fileAndConsole", text)
}

// runFilePath is the absolute path of the run file that --run-file names; "-" stays.
func runFilePath(given string) (string, error) {
	if given == "-" {
		return given, nil
	}
	path, err := filepath.Abs(given)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("error in getting the file info for %s: %w", path, err)
	}
	if info.IsDir() {
		path = filepath.Join(path, "dapr.yaml")
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("error in getting the file info for %s: %w", path, err)
		}
		return path, nil
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".yaml", ".yml":
		return path, nil
	}
	return "", fmt.Errorf("file %q is not a YAML file", given)
}

// maxRunFile is the largest run file that is read, in bytes.
const maxRunFile = 16 << 20

// readRunFile reads a run file; "-" is stdin. unknown says which keys have no effect, if any.
func readRunFile(path string, stdin io.Reader) (file *runFile, unknown string, err error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, "", err
		}
		defer f.Close()
		in = f
	}
	if in == nil {
		return nil, "", errors.New("there is no standard input to read the run file from")
	}
	data, err := io.ReadAll(io.LimitReader(in, maxRunFile+1))
	switch {
	case err != nil:
		return nil, "", err
	case len(data) > maxRunFile:
		return nil, "", fmt.Errorf("the run file is larger than %d MiB", maxRunFile>>20)
	}
	return parseRunFile(data)
}

func parseRunFile(data []byte) (file *runFile, unknown string, err error) {
	file = &runFile{}
	if err := yaml.Unmarshal(data, file); err != nil {
		return nil, "", fmt.Errorf("error in parsing the provided app config file: %w", err)
	}
	strict := yaml.NewDecoder(bytes.NewReader(data))
	strict.KnownFields(true)
	if err := strict.Decode(&runFile{}); err != nil {
		if e, ok := errors.AsType[*yaml.TypeError](err); ok {
			unknown = strings.Join(e.Errors, "; ")
		}
	}
	if file.Version == 0 {
		return nil, unknown, errors.New("required field 'version' not found in the provided app config file; add version: 1")
	}
	if len(file.Apps) == 0 {
		return nil, unknown, noAppsError{}
	}
	return file, unknown, nil
}

// noAppsError is the answer to a run file without apps (Dapr CLI, run -f: schema).
type noAppsError struct{}

func (noAppsError) Error() string { return "No apps to run" }

// plan merges and resolves the entries of a run file in the directory base (Dapr CLI, run -f: merging, path resolution).
// runtimePath is that of the command line. It makes the defaults of runtime directories that apps need.
func (r *runFile) plan(base, runtimePath string) ([]*plannedApp, error) {
	common := r.Common
	if err := common.resolve(base, runtimePath); err != nil {
		return nil, err
	}
	var planned []*plannedApp
	seen := map[string]bool{}
	for i := range r.Apps {
		app := &r.Apps[i]
		p, err := app.plan(&common, base, runtimePath)
		if err != nil {
			name := app.AppID
			if name == "" {
				name = app.AppDirPath
			}
			return nil, fmt.Errorf("app %d (%s): %w", i+1, name, err)
		}
		if seen[p.appID] {
			return nil, fmt.Errorf("app %d: the app id %q is used twice; give every app its own appID", i+1, p.appID)
		}
		seen[p.appID] = true
		planned = append(planned, p)
	}
	return planned, nil
}

func (a *runApp) plan(common *sharedKeys, base, runtimePath string) (*plannedApp, error) {
	if a.AppDirPath == "" {
		return nil, errors.New("required field 'appDirPath' not found in the provided app config file")
	}
	dir, err := existing(base, a.AppDirPath)
	if err != nil {
		return nil, err
	}
	switch a.ContainerImagePull {
	case "", "Always", "Never", "IfNotPresent":
	default:
		return nil, fmt.Errorf("invalid containerImagePullPolicy: %s, allowed values: Always, Never, IfNotPresent", a.ContainerImagePull)
	}
	own := a.sharedKeys
	if common.RuntimePath != "" {
		runtimePath = common.RuntimePath
	}
	if err := own.resolve(dir, runtimePath); err != nil {
		return nil, err
	}
	resources, config := own.resources(), own.ConfigFilePath
	if local := filepath.Join(dir, ".dapr", "resources"); len(resources) == 0 && exists(local) {
		resources = []string{local}
	}
	if len(resources) == 0 {
		resources = common.resources()
	}
	if local := filepath.Join(dir, ".dapr", "config.yaml"); config == "" && exists(local) {
		config = local
	}
	own.inherit(common)
	if config == "" {
		config = common.ConfigFilePath
	}

	p := &plannedApp{appSpec: appSpec{
		appID: a.AppID, appPort: a.AppPort, appProtocol: own.AppProtocol, appChannelAddress: a.AppChannelAddress, appSSL: own.AppSSL,
		appMaxConcurrency: own.AppMaxConcurrency, httpPort: a.DaprHTTPPort, grpcPort: a.DaprGRPCPort, internalPort: a.DaprInternalPort,
		metricsPort: a.MetricsPort, profilePort: a.ProfilePort, enableProfiling: own.EnableProfiling, enableAPILogging: own.EnableAPILogging,
		enableAppHealthCheck: own.EnableAppHealthCheck, logLevel: own.LogLevel, maxBodySize: own.MaxBodySize, readBufferSize: own.ReadBufferSize,
		listenAddresses: own.APIListenAddresses, healthPath: own.AppHealthCheckPath, healthInterval: own.AppHealthProbeInterval,
		healthTimeout: own.AppHealthProbeTimeout, healthThreshold: own.AppHealthThreshold, placement: ownMachine, scheduler: ownMachine,
		command: a.Command, env: own.Env, dir: dir, resources: resources, config: config,
	}}
	if p.appID == "" {
		p.appID = filepath.Base(dir)
	}
	if p.appProtocol == "" {
		p.appProtocol = "http"
	}
	if own.PlacementHostAddress != nil {
		p.placement = *own.PlacementHostAddress
	}
	if own.SchedulerHostAddress != nil && *own.SchedulerHostAddress != "" {
		p.scheduler = *own.SchedulerHostAddress
	}
	if a.UnixDomainSocket != "" {
		if p.unixDomainSocket, err = existing(dir, a.UnixDomainSocket); err != nil {
			return nil, err
		}
	}
	if p.daprdLog, err = parseDestination(own.DaprdLogDestination, "file"); err != nil {
		return nil, err
	}
	if p.appLog, err = parseDestination(own.AppLogDestination, "fileAndConsole"); err != nil {
		return nil, err
	}
	if own.RuntimePath == "" {
		own.RuntimePath = runtimePath
	}
	return p, p.runtimeDefaults(own.RuntimePath)
}

// runtimeDefaults makes the runtime directory and takes from it what the run file left open.
func (p *plannedApp) runtimeDefaults(runtimePath string) (err error) {
	if p.runtimeDir, err = runtimeDir(runtimePath); err != nil {
		return err
	}
	if err = prepareData(p.runtimeDir); err != nil {
		return err
	}
	if len(p.resources) == 0 {
		if err = defaultComponents(p.runtimeDir); err != nil {
			return err
		}
		p.resources = []string{componentsDir(p.runtimeDir)}
	}
	if p.config == "" {
		if err = defaultConfiguration(p.runtimeDir); err != nil {
			return err
		}
		p.config = configFile(p.runtimeDir)
	}
	return nil
}

// resources are the paths of resources of one level.
func (k *sharedKeys) resources() []string {
	if k.ResourcesPath == "" {
		return k.ResourcesPaths
	}
	return append(append([]string(nil), k.ResourcesPaths...), k.ResourcesPath)
}

// resolve makes the paths absolute, which have to exist; the directory of default components is made where it is named.
// runtimePath is that of the level above.
func (k *sharedKeys) resolve(base, runtimePath string) error {
	paths := append([]string(nil), k.ResourcesPaths...)
	resources := []*string{&k.ResourcesPath}
	for i := range paths {
		resources = append(resources, &paths[i])
	}
	k.ResourcesPaths = paths
	all := append([]*string{&k.RuntimePath, &k.ConfigFilePath}, resources...)
	for _, t := range all {
		if *t == "" {
			continue
		}
		path, err := located(base, *t)
		if err != nil {
			return err
		}
		*t = path
	}
	if k.RuntimePath != "" {
		runtimePath = k.RuntimePath
	}
	dir, err := runtimeDir(runtimePath)
	if err != nil {
		return err
	}
	for _, t := range resources {
		if err := namedComponents(dir, *t); err != nil {
			return err
		}
	}
	for _, t := range all {
		if *t == "" {
			continue
		}
		if err := mustExist(*t); err != nil {
			return err
		}
	}
	return nil
}

// inherit takes the values of common for those that are zero, except paths of resources and configuration, which have levels of
// their own; environments are joined.
func (k *sharedKeys) inherit(common *sharedKeys) {
	env := make(map[string]string, len(common.Env)+len(k.Env))
	for name, value := range common.Env {
		env[name] = value
	}
	for name, value := range k.Env {
		env[name] = value
	}
	to, from := reflect.ValueOf(k).Elem(), reflect.ValueOf(common).Elem()
	for i := range to.NumField() {
		switch to.Type().Field(i).Name {
		case "ResourcesPaths", "ResourcesPath", "ConfigFilePath", "Env":
			continue
		}
		if to.Field(i).IsZero() {
			to.Field(i).Set(from.Field(i))
		}
	}
	k.Env = env
}

// existing is the absolute path of something that exists, relative to base or to the home directory.
func existing(base, path string) (string, error) {
	path, err := located(base, path)
	if err != nil {
		return "", err
	}
	return path, mustExist(path)
}

// located is the absolute path of something, relative to base or to the home directory.
func located(base, path string) (string, error) {
	if rest, ok := strings.CutPrefix(path, "~/"); ok && runtime.GOOS != "windows" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		path = filepath.Join(home, rest)
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(base, path)
	}
	return filepath.Abs(path)
}

func mustExist(path string) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("error in getting the file info for %s: %w", path, err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// loadPlan reads and plans the run file that --run-file names.
func (c *command) loadPlan(ctx context.Context, given string) (path string, file *runFile, apps []*plannedApp, err error) {
	if path, err = runFilePath(given); err != nil {
		return "", nil, nil, err
	}
	file, unknown, err := readRunFile(path, c.program.Stdin)
	if unknown != "" {
		c.print.warning("%s has keys without effect: %s", given, unknown)
	}
	if err != nil {
		return "", nil, nil, err
	}
	base, err := os.Getwd()
	if path != "-" {
		base, err = filepath.Dir(path), nil
	}
	if err != nil {
		return "", nil, nil, err
	}
	apps, err = file.plan(base, c.runtimePath)
	return path, file, apps, errors.Join(err, ctx.Err())
}
