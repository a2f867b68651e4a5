package rig

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Promtool is a prepared command of the given version's promtool; the caller
// sets its input and runs it.
func Promtool(t testing.TB, version string, args ...string) *exec.Cmd {
	t.Helper()
	return exec.Command(prometheusBinary(t, version, "promtool"), args...)
}

// Prometheus3Binary is the path of the server that [Prometheus] starts as
// [Prometheus3], a static program.
func Prometheus3Binary(t testing.TB) string {
	t.Helper()
	return prometheusBinary(t, Prometheus3, "prometheus")
}

func prometheusBinary(t testing.TB, version, name string) string {
	t.Helper()
	switch version {
	case PrometheusDebian:
		Need(t, name)
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		return path
	case Prometheus3:
		Need(t, "go")
		dir, err := buildPrometheus3(t)
		if err != nil {
			t.Fatalf("build Prometheus 3: %v", err)
		}
		return filepath.Join(dir, name)
	}
	t.Fatalf("no such version of Prometheus: %q", version)
	return ""
}

const buildLimit = 9 * time.Minute

var requiredVersion = regexp.MustCompile(`(?m)^require github\.com/prometheus/prometheus v0\.([0-9])([0-9]{2})\.([0-9]+)$`)

// buildPrometheus3 returns the folder that holds prometheus and promtool of
// the release which tools/prometheus/go.mod names, and builds them there when
// this is the first time.
func buildPrometheus3(t testing.TB) (string, error) {
	module := filepath.Join(Root(t), "tools", "prometheus")
	mod, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append(mod, runtime.Version()...))
	dir := filepath.Join(CacheDir(t), fmt.Sprintf("prometheus3-%x", sum[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}

	unlock, err := lockFile(dir+".lock", buildLimit)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}

	// v0.315.0 of the library is release 3.15.0; the server itself learns its
	// version from the linker only, and scraped programs see it.
	m := requiredVersion.FindSubmatch(mod)
	if m == nil {
		return "", fmt.Errorf("%s/go.mod requires no github.com/prometheus/prometheus v0.XYY.Z", module)
	}
	minor, _ := strconv.Atoi(string(m[2]))
	release := fmt.Sprintf("%s.%d.%s", m[1], minor, m[3])

	partial, err := os.MkdirTemp(filepath.Dir(dir), "prometheus3-partial-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(partial)
	t.Logf("building Prometheus %s into %s: about two minutes, once", release, dir)
	ctx, cancel := context.WithTimeout(context.Background(), buildLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags=remove_all_sd",
		"-ldflags=-s -w -X github.com/prometheus/common/version.Version="+release,
		"-o", partial+"/",
		"github.com/prometheus/prometheus/cmd/prometheus", "github.com/prometheus/prometheus/cmd/promtool")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("not done within %s", buildLimit)
		}
		return "", fmt.Errorf("go build in %s: %w\n%s", module, err, out)
	}
	if err := os.Chmod(partial, 0o755); err != nil {
		return "", err
	}
	return dir, os.Rename(partial, dir)
}

// lockFile takes an exclusive lock and waits for it at most for d. The lock
// goes away with the process at the latest.
func lockFile(path string, d time.Duration) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(d)
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("lock %s (another test run builds it?): %w", path, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// Root is the top folder of the module, found from the folder that the test
// runs in.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module fanin\n") {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("the test does not run inside the module: no go.mod of it above the working folder")
		}
		dir = parent
	}
}
