package sdk

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// What the suites need is installed beside them (js/node_modules, python/.venv, java/lib) and in Go's own caches. A stamp with the
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

// javaRelease is the oldest Java that can run the suite.
const javaRelease = 17

// installJava returns java and the class path of the Java SDK's suite, compiled.
func installJava(t *testing.T) (java, classPath string) {
	t.Helper()
	const what = "a JDK of Java 17 or later"
	java, javac, mvn := need(t, "java", what), need(t, "javac", what), need(t, "mvn", "Maven")
	for _, program := range []string{java, javac} {
		out, err := newCommand(t, installLimit, ".", program, "--version").CombinedOutput()
		if major := javaMajor(string(out)); err != nil || major < javaRelease {
			t.Skipf("%s is not of Java %d or later (%v); install %s to run this SDK's suite\n%s", program, javaRelease, err, what, out)
		}
	}
	dir := suiteDir(t, "java")
	libraries := filepath.Join(dir, "lib")
	install(t, libraries, pins(t, filepath.Join(dir, "pom.xml")), func() {
		if err := os.RemoveAll(libraries); err != nil {
			t.Fatal(err)
		}
		run(t, dir, mvn, "--batch-mode", "--quiet", "dependency:copy-dependencies")
	})
	sources, err := filepath.Glob(filepath.Join(dir, "src", "outrigger", "sdk", "*.java"))
	if err != nil {
		t.Fatal(err)
	}
	classes, jars := t.TempDir(), filepath.Join(libraries, "*")
	run(t, dir, javac, append([]string{"--release", strconv.Itoa(javaRelease), "-d", classes, "-cp", jars}, sources...)...)
	return java, classes + string(os.PathListSeparator) + jars
}

// javaMajor is the release in what java or javac --version print, such as "openjdk 17.0.15 2025-04-15", or 0.
func javaMajor(version string) int {
	words := strings.Fields(version)
	if len(words) < 2 {
		return 0
	}
	digits, _, _ := strings.Cut(words[1], ".")
	major, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return major
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

// installing is held by what installs, for several tests may need the same.
var installing sync.Mutex

// install calls do unless the folder holds the stamp of an earlier call for the same pins.
func install(t *testing.T, folder, pins string, do func()) {
	t.Helper()
	installing.Lock()
	defer installing.Unlock()
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
