package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fanin/internal/e2e/rig"
)

// Guest or testbed? One core is wanted by two containers and a VM, a third
// container runs into its quota, and one has nothing to do. What the gateway
// says of them is what the kernel's own counters say, and is over when it is
// over. Others on the machine only add to it, so that nothing here takes them
// for gone.
func TestVerdicts(t *testing.T) {
	rig.NeedRoot(t)
	docker := rig.Dockerd(t)
	const core = 0
	crowd := rig.Container{Cores: strconv.Itoa(core)}
	docker.Run(t, "signal-first", crowd, "child", "busy")
	docker.Run(t, "signal-second", crowd, "child", "busy")
	docker.Run(t, "signal-throttled", rig.Container{CPUs: 0.1}, "child", "busy")
	docker.Run(t, "signal-idle", rig.Container{}, "idle")
	libvirt := rig.Libvirtd(t)
	vm := libvirt.Define(rig.Domain{Name: "signal-vm", MemoryMiB: 160, VCPUs: 1, Init: "echo booted; while :; do :; done"}).Start()
	vm.WaitFor("booted", 2*time.Minute)
	pin(t, vm.PID(), core)

	b := newTestbed(t, "--history.path="+t.TempDir())
	b.deploy("signal", "up", "first docker main-host", "second docker main-host", "throttled docker main-host", "idle docker main-host", "vm libvirt main-host")
	b.pusher(mainHost, "--docker.host=unix://"+docker.Socket, "--libvirt.uri="+libvirt.URI)

	first, throttled := groupOf(t, docker.PID(t, "signal-first")), groupOf(t, docker.PID(t, "signal-throttled"))
	kernel := &kernelTrace{read: map[string]func() (float64, error){
		"used":      first.used,
		"throttled": throttled.throttled,
		"used too":  throttled.used,
		"host":      func() (float64, error) { return pressure("/proc/pressure/cpu") },
		"delay":     func() (float64, error) { return vcpuDelay(vm.PID()) },
	}}
	waited := "host_cpu"
	if first.pressure != "" {
		waited = "cpu_pressure"
		kernel.read["waited"] = func() (float64, error) { return pressure(first.pressure) }
	}
	expected := map[string]func() float64{
		"first " + waited: func() float64 {
			if waited == "cpu_pressure" {
				return kernel.rate("waited")
			}
			return min(kernel.rate("host"), kernel.rate("used"))
		},
		"throttled cpu_throttled": func() float64 {
			s := kernel.rate("throttled")
			return s / max(1, s+kernel.rate("used too"))
		},
		"vm cpu_delay": func() float64 { return kernel.rate("delay") },
	}
	// agree waits until each verdict is what the kernel's counters come to over
	// the same time, or nearly: the two are not read at the same moment.
	agree := func() verdicts {
		var v verdicts
		for which, want := range expected {
			rig.Eventually(t, 90*time.Second, func() error {
				if err := kernel.add(); err != nil {
					return err
				}
				v = b.verdicts()
				got, said := v[which]
				if want := want(); !said && want > 0.1 || !(math.Abs(got-want) <= 0.1) {
					return fmt.Errorf("%s: got %v (%v), the kernel's counters say %v, in %v", which, got, said, want, v)
				}
				return nil
			})
		}
		return v
	}
	disturbed := agree()
	t.Logf("while it lasts: %v", disturbed)
	then := time.Now()
	if v := disturbed["first "+waited]; v < 0.1 {
		t.Errorf("the first of three on one core: %v", v)
	}
	if v := disturbed["vm cpu_delay"]; v < 0.3 {
		t.Errorf("the VM beside two containers on one core: %v", v)
	}
	if v := disturbed["throttled cpu_throttled"]; v < 0.3 {
		t.Errorf("a busy container with a tenth of a core: %v", v)
	}
	for _, which := range []string{"idle any", "idle " + waited, "first cpu_throttled", "idle cpu_throttled"} {
		if v := disturbed[which]; v > 0.05 {
			t.Errorf("%s is %v", which, v)
		}
	}
	if _, said := disturbed["idle any"]; !said {
		t.Errorf("of the idle one nothing is said: %v", disturbed)
	}
	if v := disturbed["signal"]; v < max(disturbed["first "+waited], disturbed["vm cpu_delay"]) {
		t.Errorf("the deployment is at %v, in %v", v, disturbed)
	}
	if _, said := disturbed["vm host_cpu"]; said {
		t.Errorf("the VM says itself how long it waited: %v", disturbed)
	}
	json, page := b.inJSON(), b.verdicts()
	for _, which := range []string{"signal", "vm cpu_delay", "first any", "throttled cpu_throttled"} {
		if v, said := json[which]; !said || math.Abs(v-page[which]) > 0.3 {
			t.Errorf("%s: the dashboard's JSON has %v (%v), the page %v", which, v, said, page[which])
		}
	}

	for _, name := range []string{"signal-first", "signal-second", "signal-throttled"} {
		endChildren(t, docker.PID(t, name))
	}
	rig.Eventually(t, time.Minute, func() error {
		v := b.verdicts()
		for _, which := range []string{"first " + waited, "throttled cpu_throttled"} {
			if got := v[which]; got > disturbed[which]/4 { // below 0.01 it is not told
				return fmt.Errorf("%s was %v and is %v", which, disturbed[which], got)
			}
		}
		return nil
	})
	t.Logf("after it: %v", agree())
	time.Sleep(time.Until(then.Add(22 * time.Second))) // the examples look 15 s ahead; there is a verdict every 5 s
	// Who is left when the disturbed are taken out, and who was disturbed.
	if got := b.examples(then); strings.Contains(got[1], "first") || !strings.Contains(got[1], "idle") || got[2] != "" || got[5] != "" || !strings.Contains(got[6], "vm") {
		t.Errorf("the examples give, of then,\n%s", strings.Join(got, "\n"))
	}
	if got := b.examples(time.Now()); !strings.Contains(got[3], "throttled") || strings.Contains(got[3], "idle") || got[4] != "one" {
		t.Errorf("the examples give, of now,\n%s", strings.Join(got, "\n"))
	}
	docker.Do(t, "signal-first", "stop")
	rig.Eventually(t, time.Minute, func() error {
		if v := b.verdicts(); len(v.of("first")) > 0 || len(v.of("second")) == 0 {
			return fmt.Errorf("the first has stopped, in %v", v)
		}
		return nil
	})
	b.deploy("signal", "down", "first docker main-host", "second docker main-host")
	rig.Eventually(t, time.Minute, func() error {
		if v := b.verdicts(); len(v) != hostVerdicts(v) {
			return fmt.Errorf("the deployment is down, in %v", v)
		}
		return nil
	})
}

// examples asks the queries of docs/verdict.md as of a moment. Of each it
// returns the guests in the answer, sorted; "one" for one that is of no guest.
func (b *testbed) examples(then time.Time) (got []string) {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(rig.Root(b.t), "docs", "verdict.md"))
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		query, example := strings.CutPrefix(line, "    ")
		if !example {
			continue
		}
		var answer struct {
			Data struct {
				Result []struct{ Metric map[string]string }
			}
		}
		at := fmt.Sprintf("/api/v1/query?time=%.3f&query=%s", float64(then.UnixMilli())/1000, url.QueryEscape(strings.TrimSpace(query)))
		if err := json.Unmarshal([]byte(b.page(at)), &answer); err != nil {
			b.t.Fatal(err)
		}
		var of []string
		for _, r := range answer.Data.Result {
			of = append(of, cmp.Or(r.Metric["guest_name"], "one"))
		}
		slices.Sort(of)
		got = append(got, strings.Join(of, " "))
	}
	if len(got) != 7 {
		b.t.Fatalf("docs/verdict.md has %d examples; those after the first are asked by their number", len(got))
	}
	return got
}

// verdicts are shares by "guest cause", by the deployment's name, and by "host
// HOST cause".
type verdicts map[string]float64

func (v verdicts) of(guest string) (of []string) {
	for which := range v {
		if strings.HasPrefix(which, guest+" ") {
			of = append(of, which)
		}
	}
	return of
}

func hostVerdicts(v verdicts) int { return len(v.of("host")) }

var verdictLine = regexp.MustCompile(`(?m)^testbed_(guest|host|deployment)_disturbed_ratio\{(.*)\} (\S+)$`)

func (b *testbed) verdicts() verdicts {
	b.t.Helper()
	v := verdicts{}
	for _, m := range verdictLine.FindAllStringSubmatch(b.page("/metrics/testbed"), -1) {
		label := func(name string) string {
			_, after, _ := strings.Cut(m[2], name+`="`)
			value, _, _ := strings.Cut(after, `"`)
			return value
		}
		share, err := strconv.ParseFloat(m[3], 64)
		if err != nil || !(share >= 0 && share <= 1) {
			b.t.Fatalf("%s: a share is 0 to 1", m[0])
		}
		switch m[1] {
		case "guest":
			v[label("guest_name")+" "+label("cause")] = share
		case "host":
			v["host "+label("host_name")+" "+label("cause")] = share
		default:
			v[label("project")] = share
		}
	}
	return v
}

// inJSON is the same from the dashboard, without the hosts.
func (b *testbed) inJSON() verdicts {
	b.t.Helper()
	var page struct {
		Name      string
		Disturbed *float64
		Guests    []struct {
			Name      string
			Disturbed map[string]float64
		}
	}
	if err := json.Unmarshal([]byte(b.page("/api/v1/deployments/signal")), &page); err != nil {
		b.t.Fatal(err)
	}
	v := verdicts{}
	if page.Disturbed != nil {
		v[page.Name] = *page.Disturbed
	}
	for _, g := range page.Guests {
		for cause, share := range g.Disturbed {
			v[g.Name+" "+cause] = share
		}
	}
	return v
}

// kernelTrace is what the kernel's counters were, in seconds, in the last half
// minute.
type kernelTrace struct {
	read map[string]func() (float64, error)
	rows []kernelRow
}

type kernelRow struct {
	at     time.Time
	values map[string]float64
}

func (k *kernelTrace) add() error {
	row := kernelRow{time.Now(), map[string]float64{}}
	for name, read := range k.read {
		v, err := read()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		row.values[name] = v
	}
	k.rows = append(k.rows, row)
	for len(k.rows) > 2 && row.at.Sub(k.rows[1].at) >= 10*time.Second {
		k.rows = k.rows[1:]
	}
	return nil
}

// rate is by how much a counter rose in a second over the last 10; NaN until it
// has been watched for so long.
func (k *kernelTrace) rate(name string) float64 {
	first, last := k.rows[0], k.rows[len(k.rows)-1]
	if last.at.Sub(first.at) < 10*time.Second {
		return math.NaN()
	}
	return (last.values[name] - first.values[name]) / last.at.Sub(first.at).Seconds()
}

// controlGroup is where the kernel counts what a container does.
type controlGroup struct {
	cpu, account string // folders
	two          bool   // they are of version 2
	pressure     string // file, "" when there is none
}

func groupOf(t *testing.T, pid int) (g controlGroup) {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for controller := range strings.SplitSeq(parts[1], ",") {
			folder := filepath.Join("/sys/fs/cgroup", controller, parts[2])
			switch controller {
			case "cpu":
				g.cpu = folder
			case "cpuacct":
				g.account = folder
			case "":
				if parts[2] == "/" {
					continue
				}
				for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
					file := filepath.Join(root, parts[2], "cpu.pressure")
					if _, err := os.ReadFile(file); err == nil {
						g.pressure = file
					}
				}
				if g.cpu == "" {
					g.cpu, g.account, g.two = folder, folder, true
				}
			}
		}
	}
	return g
}

func (g *controlGroup) used() (float64, error) {
	if g.two {
		return field(filepath.Join(g.account, "cpu.stat"), "usage_usec ", 1e6)
	}
	return field(filepath.Join(g.account, "cpuacct.usage"), "", 1e9)
}

func (g *controlGroup) throttled() (float64, error) {
	if g.two {
		return field(filepath.Join(g.cpu, "cpu.stat"), "throttled_usec ", 1e6)
	}
	return field(filepath.Join(g.cpu, "cpu.stat"), "throttled_time ", 1e9)
}

func pressure(file string) (float64, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(content), "total=")
	total, _, _ := strings.Cut(after, "\n")
	v, err := strconv.ParseFloat(total, 64)
	return v / 1e6, err
}

func field(file, prefix string, unit float64) (float64, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), prefix); ok {
			v, err := strconv.ParseFloat(rest, 64)
			return v / unit, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, prefix)
}

// vcpuDelay is how long the one virtual processor of an emulator has waited for
// a core.
func vcpuDelay(pid int) (float64, error) {
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", pid))
	for _, name := range names {
		if comm, _ := os.ReadFile(name); !strings.HasPrefix(string(comm), "CPU ") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(filepath.Dir(name), "schedstat"))
		if err != nil {
			return 0, err
		}
		var ran, waited float64
		_, err = fmt.Sscan(string(content), &ran, &waited)
		return waited / 1e9, err
	}
	return 0, fmt.Errorf("process %d has no thread of a virtual processor", pid)
}

// pin keeps all threads of a process on one core.
func pin(t *testing.T, pid, core int) {
	t.Helper()
	var set unix.CPUSet
	set.Set(core)
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SchedSetaffinity(id, &set); err != nil && err != unix.ESRCH {
			t.Fatal(err)
		}
	}
}

// endChildren ends the children of a container's first process.
func endChildren(t *testing.T, pid int) {
	t.Helper()
	children := rig.Children(t, pid)
	if len(children) == 0 {
		t.Fatalf("process %d has no children", pid)
	}
	for _, id := range children {
		if err := syscall.Kill(id, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}
