package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// WorkloadImage is the image that [Dockerd] makes in each engine from
// internal/e2e/workload, whose comment says what its arguments do.
const WorkloadImage = "fanin/workload:test"

// Docker is a Docker engine of a test's own: its folders, socket, containerd
// and network are nobody else's, nothing of it stands at a default path, and
// all of it is gone when the test ends. Its methods are safe for concurrent
// use, but those that start and stop it.
type Docker struct {
	Socket  string   // path of the API's socket
	Process *Process // dockerd

	dir    string
	args   []string
	client *http.Client

	mu     sync.Mutex
	ids    []string // guarded by mu; of the containers ever made here
	bridge []string // guarded by mu; interfaces of the networks ever made here
	parent []string // guarded by mu; control groups given as Container.Parent
}

// Dockerd starts a Docker engine (cgroupfs driver, no default network) and
// waits until it answers. More arguments of dockerd may follow, such as
// --live-restore.
func Dockerd(t testing.TB, args ...string) *Docker {
	t.Helper()
	Need(t, "dockerd", "containerd", "runc")
	NeedRoot(t)
	dir, err := os.MkdirTemp("/tmp", "fanin-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d := &Docker{Socket: filepath.Join(dir, "docker.sock"), dir: dir}
	d.client = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", d.Socket)
		},
	}}
	config := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.args = append([]string{
		"--config-file", config,
		"--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "docker.pid"),
		"--host", d.Host(),
		"--exec-opt", "native.cgroupdriver=cgroupfs",
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false",
	}, args...)

	lock := cgroupLock(t)
	// Cleanups run last first: containers, then dockerd, then what is left.
	t.Cleanup(func() { d.sweep(t, lock) })
	d.StartDaemon(t)
	t.Cleanup(func() { d.removeAll(t) })
	d.Image(t, WorkloadImage, map[string]string{"workload": workload(t)}, "/workload")
	return d
}

// Host is the engine's address in the form of DOCKER_HOST.
func (d *Docker) Host() string { return "unix://" + d.Socket }

// StartDaemon starts dockerd (again) and waits until it answers.
func (d *Docker) StartDaemon(t testing.TB) {
	t.Helper()
	d.Process = Start(t, "dockerd", d.args...)
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := d.call("GET", "/_ping", nil, nil)
		if err == nil {
			return
		}
		if ended := d.Process.Wait(0); !errors.Is(ended, ErrStillRunning) || time.Now().After(deadline) {
			t.Fatalf("dockerd does not answer: %v; it said last:\n%s", err, d.Process.Tail(4096))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// StopDaemon ends dockerd, and with it its containers unless it was started
// with --live-restore.
func (d *Docker) StopDaemon(t testing.TB) {
	t.Helper()
	d.Process.Stop(30 * time.Second)
	d.client.CloseIdleConnections()
}

// API calls the engine's API, with a JSON body unless it is nil or an
// io.Reader, and decodes the answer unless answer is nil. An answer of 400 or
// more ends the test.
func (d *Docker) API(t testing.TB, method, path string, body, answer any) {
	t.Helper()
	if err := d.call(method, path, body, answer); err != nil {
		t.Fatal(err)
	}
}

func (d *Docker) call(method, path string, body, answer any) error {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case io.Reader:
		r = b
	default:
		j, err := json.Marshal(b)
		if err != nil {
			return err
		}
		r = bytes.NewReader(j)
	}
	req, err := http.NewRequest(method, "http://docker"+path, r)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		return fmt.Errorf("docker: %s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(got))
	}
	if answer != nil {
		return json.Unmarshal(got, answer)
	}
	return nil
}

// removeAll removes every container, as long as dockerd runs.
func (d *Docker) removeAll(t testing.TB) {
	t.Helper()
	if err := d.Process.Wait(0); !errors.Is(err, ErrStillRunning) {
		return
	}
	_ = d.Process.Signal(syscall.SIGCONT)
	var all []struct{ ID string }
	if err := d.call("GET", "/containers/json?all=1", nil, &all); err != nil {
		t.Logf("list containers to remove them: %v", err)
		return
	}
	for _, c := range all {
		if err := d.call("DELETE", "/containers/"+c.ID+"?force=1", nil, nil); err != nil {
			t.Logf("remove container %s: %v", c.ID, err)
		}
	}
}

// sweep ends and removes what a killed dockerd leaves behind, and fails the
// test when something stays.
func (d *Docker) sweep(t testing.TB, lock *os.File) {
	t.Helper()
	d.client.CloseIdleConnections()
	Eventually(t, 10*time.Second, func() error {
		var left []error
		for _, pid := range pidsWith(d.dir) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			left = append(left, fmt.Errorf("process %d of %s is still there", pid, d.dir))
		}
		for _, id := range d.ids {
			for _, parent := range append(d.parent, "docker") {
				for _, group := range groupsOf(parent, id) {
					killGroup(group)
					left = append(left, removeGroup(group))
				}
			}
		}
		for _, parent := range d.parent {
			for _, group := range groupsOf(parent, "") {
				left = append(left, removeGroup(group))
			}
		}
		mounts := mountsUnder(d.dir)
		for i := len(mounts) - 1; i >= 0; i-- {
			if err := syscall.Unmount(mounts[i], syscall.MNT_DETACH); err != nil {
				left = append(left, fmt.Errorf("unmount %s: %w", mounts[i], err))
			}
		}
		for _, b := range d.bridge {
			if _, err := net.InterfaceByName(b); err == nil {
				left = append(left, removeBridge(b))
			}
		}
		return errors.Join(left...)
	})
	if err := os.RemoveAll(d.dir); err != nil {
		t.Error(err)
	}
	// The last engine takes the parent groups along; another one's containers
	// may be about to be made in them.
	if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		for _, group := range groupsOf("docker", "") {
			_ = os.Remove(group) // not empty: not ours
		}
	}
	_ = lock.Close()
}

// cgroupLock is shared by all engines of the rig on this machine.
func cgroupLock(t testing.TB) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(CacheDir(t), "dockerd.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	return f
}

// groupsOf lists the cgroup directories of a container, or of its parent with
// an empty id.
func groupsOf(parent, id string) []string {
	v1, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", parent, id))
	v2, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", parent, id))
	return append(v1, v2...)
}

func removeGroup(group string) error {
	if err := os.Remove(group); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// removeBridge takes a bridge interface down and away, as netdevice(7) and
// the kernel's net/bridge/br_ioctl.c have it.
func removeBridge(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(0) // no flag: down
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("take %s down: %w", name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCBRDELBR, request); err != nil {
		return fmt.Errorf("remove bridge %s: %w", name, err)
	}
	return nil
}

func killGroup(group string) {
	procs, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, line := range strings.Fields(string(procs)) {
		var pid int
		if _, err := fmt.Sscan(line, &pid); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// pidsWith lists the processes that have text on their command line.
func pidsWith(text string) []int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var pids []int
	for _, f := range files {
		line, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(line, []byte(text)) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(f, "/proc/%d/", &pid); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

func mountsUnder(dir string) []string {
	table, _ := os.ReadFile("/proc/self/mountinfo")
	var mounts []string
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			mounts = append(mounts, fields[4])
		}
	}
	return mounts
}
