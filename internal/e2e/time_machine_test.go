package e2e

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// machine is one of QEMU, with a clock of its own.
type machine struct {
	t       *testing.T
	qemu    *rig.Process
	console io.Writer
}

// boot starts a machine that has the programs and the settings. Its port 9370
// is a port of ours, and its 10.0.2.2 is our loopback.
func boot(t *testing.T, port int, settings string) *machine {
	t.Helper()
	rig.Need(t, "qemu-system-x86_64", "busybox")
	dir := t.TempDir()
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", dir, "fanin/cmd/pusher", "fanin/cmd/gateway", "fanin/internal/e2e/workload")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	const config = "config/kvm-compose-config.json"
	files := map[string]string{filepath.Join("/testbedos", config): filepath.Join(settings, config)}
	for _, name := range []string{"pusher", "gateway", "workload"} {
		files["/bin/"+name] = filepath.Join(dir, name)
	}
	modules := slices.DeleteFunc(rig.VirtioModules(), func(name string) bool { return name == "virtio_blk" || name == "virtio_balloon" })
	initramfs := rig.Initramfs(t, files, `
ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up
echo 0 > /proc/sys/kernel/printk
echo ready for commands
while read -r line; do eval "$line"; done`, modules...)
	cmd := exec.Command("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "512",
		"-nographic", "-nodefaults", "-no-reboot", "-serial", "stdio",
		"-netdev", fmt.Sprintf("user,id=n,hostfwd=tcp:127.0.0.1:%d-:9370", port), "-device", "virtio-net-pci,netdev=n",
		"-kernel", rig.Kernel(t), "-initrd", initramfs, "-append", "console=ttyS0 panic=-1 no_timer_check quiet")
	console, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, qemu: rig.StartCmd(t, cmd), console: console}
	m.waitFor(2*time.Minute, "ready for commands")
	return m
}

// do runs a line of shell in it and waits until that has been done.
func (m *machine) do(line string) {
	m.t.Helper()
	done := fmt.Sprintf("done-%d", time.Now().UnixNano())
	if _, err := fmt.Fprintf(m.console, "%s\necho; echo %s\n", line, done); err != nil {
		m.t.Fatal(err)
	}
	m.waitFor(30*time.Second, done)
}

// waitFor waits until it has said a line.
func (m *machine) waitFor(d time.Duration, line string) {
	m.t.Helper()
	rig.Eventually(m.t, d, func() error {
		if said := strings.ReplaceAll(m.qemu.Tail(1<<20), "\r", ""); !strings.Contains(said, line+"\n") {
			return fmt.Errorf("the machine does not say %q but\n%s", line, said)
		}
		return nil
	})
}

// TestClockSet sets the clock of a machine on which two pushers run: one with
// a gateway on the same clock, one with a gateway on ours, which is right.
func TestClockSet(t *testing.T) {
	settings := &testbed{t: t, dir: t.TempDir()}
	settings.write("config/kvm-compose-config.json", map[string]any{"testbed_host_ssh_config": settings.hosts()})
	port, inside := rig.FreePort(t), rig.FreePort(t)
	rig.Start(t, filepath.Join(programs(t), "gateway"), fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port), "--testbedos.settings="+settings.dir)
	m := boot(t, inside, settings.dir)
	m.do("gateway --web.listen-address=:9370 --testbedos.settings=/testbedos 2>/tmp/gateway.log &")
	const pusher = "pusher --no-docker --no-libvirt --node.name=main-host --spool.path=/tmp/%[1]s --web.listen-address=127.0.0.1:%[2]d --push.url=http://%[3]s/api/v1/write 2>/tmp/%[1]s.log & %[1]s=$!"
	m.do(fmt.Sprintf(pusher, "same", 9371, "127.0.0.1:9370"))
	m.do(fmt.Sprintf(pusher, "ours", 9372, fmt.Sprint("10.0.2.2:", port)))

	same := &clocked{t: t, testbed: testbed{t: t, url: fmt.Sprintf("http://127.0.0.1:%d", inside)}}
	ours := &clocked{t: t, testbed: testbed{t: t, url: fmt.Sprintf("http://127.0.0.1:%d", port)}}
	for _, c := range []*clocked{same, ours} {
		c.collector = collect(t, c.url)
		rig.Eventually(t, time.Minute, func() error {
			if got := c.of(hostLoad, time.Time{}); len(got) < 5 {
				return fmt.Errorf("%s: %d ticks have been collected", c.url, len(got))
			}
			return nil
		})
	}
	// The machine has read its clock from one that knows only whole seconds.
	first, err := ours.offset(mainHost)
	if err != nil || math.Abs(first) > 3 {
		t.Fatalf("the machine's clock is %v s ahead, %v", first, err)
	}
	set := func(line string) {
		t.Helper()
		same.before, ours.before = same.newest(), ours.newest()
		m.do(line)
	}

	// Back by 30 s, which is less than a receiver would refuse: silence until
	// the old time is reached, and nothing is told twice.
	set("workload clock -30")
	for _, c := range []*clocked{same, ours} {
		if away := c.goesOn(45*time.Second, 0, 3); away < 27*time.Second {
			t.Errorf("%s: the gap is %s, want 30 s", c.url, away)
		}
		if got := c.refused(); len(got) > 0 {
			t.Errorf("samples were refused: %v", got)
		}
	}
	same.ahead(0)
	ours.ahead(first - 30)

	// Forward by 120 s, 90 s ahead of ours.
	set("workload clock 120")
	same.goesOn(10*time.Second, 118, 125)
	ours.refuses("future")
	same.ahead(0)
	ours.ahead(first + 90)
	if got := same.refused(); len(got) > 0 {
		t.Errorf("samples were refused by who has the same clock: %v", got)
	}

	// Back by an hour, which is older than ours takes. Who has the same clock
	// begins anew, and notices as soon as ever that a node is silent.
	set("kill -STOP $same; workload clock -3600")
	ours.refuses("too_old")
	ours.ahead(first - 3510)
	rig.Eventually(t, 25*time.Second, func() error {
		page, err := same.get("/metrics/testbed")
		if err == nil && strings.Contains(page, hostLoad) {
			err = errors.New("the series of a silent node are still there")
		}
		return err
	})
	m.do("kill -CONT $same")
	same.goesOn(10*time.Second, -3600, -3560)
	same.ahead(0)
	if got := same.refused(); len(got) > 0 {
		t.Errorf("samples were refused by who has the same clock: %v", got)
	}

	// And right again.
	set("workload clock 3510")
	same.goesOn(10*time.Second, 3505, 3600)
	ours.goesOn(10*time.Second, 1, 90)
	same.ahead(0)
	ours.ahead(first)

	same.sound(1)
	ours.sound(0)
}

// clocked is a gateway, and what has been collected from it.
type clocked struct {
	t *testing.T
	testbed
	*collector
	before arrival // the newest one before the clock was set
}

func (c *clocked) newest() arrival {
	got := c.of(hostLoad, time.Time{})
	return got[len(got)-1]
}

// goesOn waits for the gap that setting the clock makes, and for what comes
// after it: its time is so many seconds after that of the one before. It
// returns how long that took.
func (c *clocked) goesOn(d time.Duration, least, most float64) (away time.Duration) {
	c.t.Helper()
	rig.Eventually(c.t, d, func() error {
		got := c.of(hostLoad, time.Time{})
		for i := slices.Index(got, c.before); i+1 < len(got); i++ { // one may have been on its way
			step := float64(got[i+1].t-got[i].t) / 1e3
			away = got[i+1].real.Sub(got[i].real)
			if away < 5*time.Second && step > 0 && step < 2.5 {
				continue
			}
			if step < least || step > most {
				c.t.Errorf("%s: after %d comes %d, %v s later; want %v to %v", c.url, got[i].t, got[i+1].t, step, least, most)
			}
			return nil
		}
		return fmt.Errorf("%s: there has been no tick since the clock was set", c.url)
	})
	return away
}

// refuses waits until the samples of some ticks have been refused; none of
// them is taken.
func (c *clocked) refuses(reason string) {
	c.t.Helper()
	rig.Eventually(c.t, 15*time.Second, func() error {
		if got := c.refused(); got[reason] < 150 {
			return fmt.Errorf("%s refuses %v, want a few ticks as %s", c.url, got, reason)
		}
		return nil
	})
	if last := c.newest(); last.t > c.before.t+1500 {
		c.t.Errorf("%s has taken a sample of %d, after %d", c.url, last.t, c.before.t)
	}
}

// ahead waits until the machine's clock is said to be so far ahead.
func (c *clocked) ahead(want float64) {
	c.t.Helper()
	rig.Eventually(c.t, 10*time.Second, func() error {
		got, err := c.offset(mainHost)
		if err == nil && math.Abs(got-want) > 1 {
			err = fmt.Errorf("%s says that the clock is %v s ahead, want %v", c.url, got, want)
		}
		return err
	})
}

// sound checks that no series has had a time twice, that the times of each
// rise but where they began anew, and that there was no burst.
func (c *clocked) sound(anew int) {
	c.t.Helper()
	all := c.all()
	if len(all) < 30 {
		c.t.Errorf("%s: %d series, want those of a host", c.url, len(all))
	}
	for series, got := range all {
		began := 0
		seen := map[int64]bool{}
		for i, a := range got {
			if seen[a.t] {
				c.t.Errorf("%s: %s has two points of %d", c.url, series, a.t)
			}
			seen[a.t] = true
			if i > 0 && a.t < got[i-1].t {
				began++
			}
			if i >= 8 && a.real.Sub(got[i-8].real) < 4*time.Second {
				c.t.Errorf("%s: nine points of %s came within %s", c.url, series, a.real.Sub(got[i-8].real))
			}
		}
		if began > anew {
			c.t.Errorf("%s: %s began anew %d times, want at most %d", c.url, series, began, anew)
		}
	}
	c.t.Logf("%s: %d series, %d ticks", c.url, len(all), len(all[hostLoad]))
}
