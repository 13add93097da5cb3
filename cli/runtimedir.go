package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"outrigger.dev/local"
)

// absolute joins the parts to an absolute path.
func absolute(parts ...string) (string, error) { return filepath.Abs(filepath.Join(parts...)) }

// binaryName is the file name of a program on this system.
func binaryName(name string) string {
	if runtime.GOOS == "windows" {
		return name + ".exe"
	}
	return name
}

// findDaprd looks for the sidecar's program: beside this one, in the runtime directory, and in PATH.
func findDaprd(runtimeDir string) (string, error) {
	name := binaryName("daprd")
	var tried []string
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		tried = append(tried, filepath.Join(filepath.Dir(self), name))
	}
	tried = append(tried, filepath.Join(runtimeDir, "bin", name))
	for _, path := range tried {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	return "", fmt.Errorf("the sidecar %s was not found: it is neither %s nor in PATH; put it beside the dapr command", name, strings.Join(tried, " nor "))
}

// The files of the runtime directory (Dapr CLI, runtime directory layout); data holds those of the embedded parts.
func componentsDir(runtimeDir string) string { return filepath.Join(runtimeDir, "components") }
func configFile(runtimeDir string) string    { return filepath.Join(runtimeDir, "config.yaml") }
func dataDir(runtimeDir string) string       { return filepath.Join(runtimeDir, "data") }
func resolverFile(runtimeDir string) string {
	return filepath.Join(dataDir(runtimeDir), "nameresolution.db")
}

// prepareData makes the directory of the embedded parts, which hold what apps store.
func prepareData(runtimeDir string) error {
	if err := os.MkdirAll(dataDir(runtimeDir), 0o700); err != nil {
		return fmt.Errorf("the directory for data of the runtime cannot be made: %w; give a writable --runtime-path", err)
	}
	return nil
}

// defaultComponents writes the state store and the broker that apps find when nothing was set up, unless there is a components
// directory.
func defaultComponents(runtimeDir string) error {
	dir := componentsDir(runtimeDir)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(runtimeDir, 0o755); err != nil {
		return err
	}
	// Built aside and moved into place, so that two runs at a time do not see half of it.
	aside, err := os.MkdirTemp(runtimeDir, ".components-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(aside)
	text := `apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: statestore
spec:
  type: state.sqlite
  version: v1
  metadata:
  - name: connectionString
    value: ` + quoteYAML(filepath.Join(dataDir(runtimeDir), "state.db")) + `
  - name: actorStateStore
    value: "true"
`
	if err := os.WriteFile(filepath.Join(aside, "statestore.yaml"), []byte(text), 0o644); err != nil {
		return err
	}
	port, err := local.ReservePort(localDir(runtimeDir))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(aside, "pubsub.yaml"), []byte(defaultBroker(port)), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(aside, 0o755); err != nil {
		return err
	}
	if err := os.Rename(aside, dir); err != nil {
		if _, statErr := os.Stat(dir); statErr == nil {
			return nil // another run was first
		}
		return err
	}
	return nil
}

// namedComponents makes the default components when somebody names their directory, which is not there yet, as a path of resources.
func namedComponents(runtimeDir, path string) error {
	if path == "" {
		return nil
	}
	path, err := filepath.Abs(path)
	if err != nil || filepath.Base(path) != filepath.Base(componentsDir(runtimeDir)) {
		return err
	}
	if parent := filepath.Dir(path); parent != runtimeDir {
		// Maybe by another way, through a link.
		named, err := os.Stat(parent)
		if err != nil {
			return nil // it is not there, and whoever reads it says so
		}
		own, err := os.Stat(runtimeDir)
		if err != nil || !os.SameFile(named, own) {
			return nil
		}
	}
	if err := prepareData(runtimeDir); err != nil {
		return err
	}
	return defaultComponents(runtimeDir)
}

// defaultConfiguration writes the configuration that sidecars get when none is given, unless there is one.
func defaultConfiguration(runtimeDir string) error {
	if err := os.MkdirAll(runtimeDir, 0o755); err != nil {
		return err
	}
	spec := "spec: {}\n"
	// Configuration files have their environment variables expanded, so a $ in the path cannot be written.
	if path := resolverFile(runtimeDir); !strings.Contains(path, "$") {
		spec = `spec:
  nameResolution:
    component: sqlite
    version: v1
    configuration:
      connectionString: ` + quoteYAML(path) + `
      announceMDNS: "true"
      resolveMDNS: "true"
`
	}
	text := "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: daprConfig\n" + spec
	aside, err := os.CreateTemp(runtimeDir, ".config-")
	if err != nil {
		return err
	}
	defer os.Remove(aside.Name())
	_, err = aside.WriteString(text)
	if err = errors.Join(err, aside.Chmod(0o644), aside.Close()); err != nil {
		return err
	}
	// A link fails where a rename would overwrite.
	if err := os.Link(aside.Name(), configFile(runtimeDir)); err != nil && !errors.Is(err, fs.ErrExist) {
		if _, statErr := os.Stat(configFile(runtimeDir)); statErr == nil {
			return nil
		}
		return os.WriteFile(configFile(runtimeDir), []byte(text), 0o644) // a file system without links
	}
	return nil
}

// quoteYAML writes text as a double-quoted YAML scalar.
func quoteYAML(text string) string { return strconv.Quote(text) }
