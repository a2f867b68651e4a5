package rig

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

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
	Cores       string  // which of them, such as "0,2"; "" for any
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
	if c.Cores != "" {
		host["CpusetCpus"] = c.Cores
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
