package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

const androidPage = "/api/metrics/prometheus/android"

// An emulator, started as TestbedOS starts one, from /proc to the page that
// TestbedOS' own Prometheus scrapes; and after its end it is up 0 and has no
// other value.
func TestAndroid(t *testing.T) {
	rig.Need(t, "ip", "promtool")
	rig.NeedRoot(t)
	programs := rig.Emulator(t)
	project := fmt.Sprintf("android%d", os.Getpid())
	avd := project + "-phone"
	ns := rig.NetworkNamespace(t, avd+"-nmspc")
	home := t.TempDir()
	folder := filepath.Join(home, ".android/avd", avd+".avd")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "config.ini"), []byte("hw.cpu.ncore=2\nhw.ramSize=2048\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := newTestbed(t)
	b.deploy(project, "up", "phone android main-host", "tablet android main-host")
	b.pusher(mainHost, "--no-docker", "--no-libvirt")
	of := func(metric string, labels ...string) string {
		return metric + "{" + strings.Join(append(labels, `guest_name="phone"`, `guest_type="android"`, `host_name="main-host"`, fmt.Sprintf("project=%q", project)), ",")
	}
	down := func(guest, reason string) string {
		return fmt.Sprintf(`testbed_guest_up{guest_name=%q,guest_type="android",host_name="main-host",project=%q,reason=%q} 0`, guest, project, reason)
	}
	b.shows(androidPage, 20*time.Second, down("phone", "not_seen"), down("tablet", "not_seen"))

	emulator := ns.Command(filepath.Join(programs, "emulator"), "-avd", avd)
	emulator.Env = append(os.Environ(), "HOME="+home, "FANIN_ENGINE=busy=0.5")
	p := rig.StartCmd(t, emulator)
	b.shows(androidPage, 20*time.Second,
		of("testbed_guest_up")+"} 1", of("testbed_guest_info", fmt.Sprintf(`backend_id="%d"`, p.Cmd.Process.Pid)),
		of("testbed_guest_start_time_seconds"), of("testbed_guest_cpu_usage_seconds_total"), of("testbed_guest_cpu"),
		of("testbed_guest_cpu_limit_cores")+"} 2", of("testbed_guest_memory_usage_bytes"), of("testbed_guest_memory_limit_bytes")+"} 2147483648",
		of("testbed_guest_processes"), of("testbed_guest_disk_written_bytes_total"),
		of("testbed_guest_network_receive_bytes_total", `device="eth0"`), of("testbed_guest_network_transmit_bytes_total", `device="eth0"`),
		down("tablet", "not_seen"))
	b.shows("/metrics/testbed", 5*time.Second, `testbed_host_guests{guest_type="android",host_name="main-host",state="running"} `)
	if page := b.page(androidPage); strings.Contains(page, "\ntestbed_guest_memory{") || strings.Contains(page, "exported_") || strings.Contains(page, "NaN") {
		t.Errorf("the page has what nobody can know:\n%s", page)
	}
	cpu := regexp.MustCompile(`(?m)^testbed_guest_cpu\{guest_name="phone".*\} ([0-9.]+)`)
	rig.Eventually(t, time.Minute, func() error {
		m := cpu.FindStringSubmatch(b.page(androidPage))
		if m == nil {
			return fmt.Errorf("no CPU on the page")
		}
		var percent float64
		if _, err := fmt.Sscan(m[1], &percent); err != nil {
			return err
		}
		if percent < 20 || percent > 30 {
			return fmt.Errorf("%v percent of two processors, want the 25 of half of one", percent)
		}
		return nil
	})

	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(b.page(androidPage))
	if out, err := check.CombinedOutput(); err != nil && !onlyNaming(string(out)) {
		t.Errorf("promtool: %v\n%s", err, out)
	}

	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ended := time.Now()
	b.shows(androidPage, 10*time.Second, down("phone", "stopped"))
	rig.Eventually(t, 10*time.Second, func() error {
		for line := range strings.Lines(b.page(androidPage)) {
			if strings.Contains(line, `guest_name="phone"`) && !strings.HasPrefix(line, "testbed_guest_up{") {
				return fmt.Errorf("after its end: %s", line)
			}
		}
		return nil
	})
	t.Logf("no value %s after its end", time.Since(ended).Round(100*time.Millisecond))
}
