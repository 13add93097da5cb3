package sdk

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// What the suites need is installed beside them (js/node_modules, python/.venv) and in Go's own caches. A stamp with the
// hash of the pins says that an installation is complete and is still the one asked for.

// installGo compiles the Go SDK's suite and returns the program.
func installGo(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "suite.test")
	run(t, suiteDir(t, "go"), "go", "test", "-c", "-o", program, ".")
	return program
}

// installJavaScript returns node, once the JavaScript SDK is installed.
func installJavaScript(t *testing.T) string {
	t.Helper()
	node, npm := need(t, "node", "Node.js 20.14 or later"), need(t, "npm", "npm, which comes with Node.js")
	dir := suiteDir(t, "js")
	install(t, filepath.Join(dir, "node_modules"), pins(t, filepath.Join(dir, "package.json"), filepath.Join(dir, "package-lock.json")), func() {
		run(t, dir, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	})
	return node
}

// installPython returns the python of a virtual environment with the Python SDK in it.
func installPython(t *testing.T) string {
	t.Helper()
	python := need(t, "python3", "Python 3.10 or later")
	dir := suiteDir(t, "python")
	venv := filepath.Join(dir, ".venv")
	inside := filepath.Join(venv, "bin", "python")
	if runtime.GOOS == "windows" {
		inside = filepath.Join(venv, "Scripts", "python.exe")
	}
	install(t, venv, pins(t, filepath.Join(dir, "requirements.txt"))+python, func() {
		run(t, dir, python, "-m", "venv", "--clear", venv)
		run(t, dir, inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt")
	})
	return inside
}

// need finds a program, or skips the test.
func need(t *testing.T, program, what string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not on the PATH; install %s to run this SDK's suite", program, what)
	}
	return path
}

// pins is the hash of the files that say what to install.
func pins(t *testing.T, files ...string) string {
	t.Helper()
	h := sha256.New()
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		h.Write(text)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// install calls do unless the folder holds the stamp of an earlier call for the same pins.
func install(t *testing.T, folder, pins string, do func()) {
	t.Helper()
	stamp := filepath.Join(folder, ".installed")
	if text, err := os.ReadFile(stamp); err == nil && string(text) == pins {
		return
	}
	do()
	if err := os.WriteFile(stamp, []byte(pins), 0o644); err != nil {
		t.Fatal(err)
	}
}

// run runs a step of an installation to its end.
func run(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	cmd := newCommand(t, installLimit, dir, program, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v; it needs its package registry the first time\n%s", cmd.Args, err, out)
	}
}
