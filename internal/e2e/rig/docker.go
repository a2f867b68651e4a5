package rig

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
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

// Image makes an image FROM scratch that holds files (path in the image to
// path on this machine) and starts with entrypoint.
func (d *Docker) Image(t testing.TB, name string, files map[string]string, entrypoint ...string) {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}); err != nil {
		t.Fatal(err)
	}
	for to, from := range files {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Name: to, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	start, err := json.Marshal(entrypoint)
	if err != nil {
		t.Fatal(err)
	}
	repo, tag, _ := strings.Cut(name, ":")
	q := url.Values{"fromSrc": {"-"}, "repo": {repo}, "tag": {tag}, "changes": {"ENTRYPOINT " + string(start)}}
	d.API(t, "POST", "/images/create?"+q.Encode(), &archive, nil)
}

// Container is how a container is made; the zero value is a [WorkloadImage]
// without network and limits.
type Container struct {
	Image       string
	Labels      map[string]string
	CPUs        float64 // 0: no limit
	Memory      int64   // bytes, 0: no limit
	Network     string  // "none" when empty; "host", "container:NAME" or a name given to [Docker.Network]
	Restart     string  // restart policy, "" for no
	PidsLimit   int64
	AutoRemove  bool
	HostProcess bool   // shares the host's process ids
	Parent      string // control group around the container's, of an own name; "docker" when empty
}

// Create makes a container and returns its id.
func (d *Docker) Create(t testing.TB, name string, c Container, args ...string) string {
	t.Helper()
	host := map[string]any{"NetworkMode": "none"}
	if c.Image == "" {
		c.Image = WorkloadImage
	}
	if c.Network != "" {
		host["NetworkMode"] = c.Network
	}
	if c.CPUs > 0 {
		host["NanoCpus"] = int64(c.CPUs * 1e9)
	}
	if c.Memory > 0 {
		host["Memory"] = c.Memory
	}
	if c.Restart != "" {
		host["RestartPolicy"] = map[string]any{"Name": c.Restart}
	}
	if c.PidsLimit > 0 {
		host["PidsLimit"] = c.PidsLimit
	}
	if c.HostProcess {
		host["PidMode"] = "host"
	}
	host["AutoRemove"] = c.AutoRemove
	if c.Parent != "" {
		host["CgroupParent"] = "/" + c.Parent
		d.mu.Lock()
		d.parent = append(d.parent, c.Parent)
		d.mu.Unlock()
	}
	var made struct{ ID string }
	d.API(t, "POST", "/containers/create?name="+url.QueryEscape(name), map[string]any{
		"Image": c.Image, "Cmd": args, "Labels": c.Labels, "HostConfig": host,
	}, &made)
	d.mu.Lock()
	d.ids = append(d.ids, made.ID)
	d.mu.Unlock()
	return made.ID
}

// Run makes and starts a container and returns its id.
func (d *Docker) Run(t testing.TB, name string, c Container, args ...string) string {
	t.Helper()
	id := d.Create(t, name, c, args...)
	d.Do(t, name, "start")
	return id
}

// Do starts, stops, restarts, pauses, unpauses or kills a container. Stopping
// waits a second before it kills.
func (d *Docker) Do(t testing.TB, name, what string) {
	t.Helper()
	path := "/containers/" + name + "/" + what
	switch what {
	case "stop", "restart":
		path += "?t=1"
	case "pause":
		// runc gives up on the freezer of version 1 when the machine is busy,
		// and leaves the container as it was.
		Eventually(t, 30*time.Second, func() error { return d.call("POST", path, nil, nil) })
		return
	}
	d.API(t, "POST", path, nil, nil)
}

// Rename gives a container another name.
func (d *Docker) Rename(t testing.TB, from, to string) {
	t.Helper()
	d.API(t, "POST", "/containers/"+from+"/rename?name="+url.QueryEscape(to), nil, nil)
}

// Remove kills and removes a container.
func (d *Docker) Remove(t testing.TB, name string) {
	t.Helper()
	d.API(t, "DELETE", "/containers/"+name+"?force=1", nil, nil)
}

// PID is the id of the container's first process, as the engine says.
func (d *Docker) PID(t testing.TB, name string) int {
	t.Helper()
	var c struct{ State struct{ Pid int } }
	d.API(t, "GET", "/containers/"+name+"/json", nil, &c)
	return c.State.Pid
}

// Address is the container's address in a network made by [Docker.Network].
func (d *Docker) Address(t testing.TB, name, network string) string {
	t.Helper()
	var c struct {
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress string }
		}
	}
	d.API(t, "GET", "/containers/"+name+"/json", nil, &c)
	return c.NetworkSettings.Networks[network].IPAddress
}

// Network makes a bridge network on a free subnet, with a bridge interface of
// an own name. Nothing is forwarded out of it.
func (d *Docker) Network(t testing.TB, name string) {
	t.Helper()
	taken := map[string]bool{}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if p, ok := a.(*net.IPNet); ok {
			taken[p.IP.Mask(net.CIDRMask(24, 32)).String()] = true
		}
	}
	var last error
	for i := range 200 {
		third := (os.Getpid() + i) % 250
		bridge := fmt.Sprintf("fanin%d", third)
		if _, err := net.InterfaceByName(bridge); err == nil || taken[fmt.Sprintf("10.213.%d.0", third)] {
			continue
		}
		last = d.call("POST", "/networks/create", map[string]any{
			"Name": name, "Driver": "bridge", "Internal": true,
			"Options": map[string]string{"com.docker.network.bridge.name": bridge},
			"IPAM":    map[string]any{"Config": []map[string]string{{"Subnet": fmt.Sprintf("10.213.%d.0/24", third)}}},
		}, nil)
		if last == nil {
			d.mu.Lock()
			d.bridge = append(d.bridge, bridge)
			d.mu.Unlock()
			t.Cleanup(func() {
				d.removeAll(t)
				_ = d.call("DELETE", "/networks/"+name, nil, nil)
			})
			return
		}
	}
	t.Fatalf("no bridge network could be made: %v", last)
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

// workload builds the containers' program once for all tests of a machine;
// the build cache makes it cheap after that.
func workload(t testing.TB) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "workload")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, "fanin/internal/e2e/workload")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the containers' program: %v\n%s", err, out)
	}
	return to
}
