package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// static builds a program of this module's for a guest that holds nothing
// else.
func static(t testing.TB, folder string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(folder))
	cmd := exec.Command("go", "build", "-trimpath", "-o", file, folder)
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

// TestUnikernel: a guest that is one application boots, is measured from
// outside, and its page is scraped by its host's pusher, at the address that
// state.json has and the port that the gateway's rules name. What it counts and
// what is counted about it agree, receive being into the guest. It ends and
// comes back with its counters at nothing.
func TestUnikernel(t *testing.T) {
	bridge, _, inside := rig.Bridge(t)
	libvirt := rig.Libvirtd(t)
	guest := libvirt.Define(rig.Domain{
		Name: "signal-uk", MemoryMiB: 160, Program: static(t, "fanin/internal/e2e/unikernel"), Cmdline: "UK_ADDRESS=" + inside + "/24",
		Balloon: "<memballoon model='none'/>", Modules: rig.VirtioModules()[:8],
		Devices: "<interface type='bridge'><source bridge='" + bridge + "'/><model type='virtio'/></interface>",
	}).Start()

	rules := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(rules, []byte("rules:\n  - {project: signal, guest: uk, type: libvirt, port: 9100, interval: 1s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newTestbed(t, "--exporter.rules="+rules)
	b.deploy("signal", "up", "uk libvirt main-host")
	b.address("signal", "uk", inside)
	b.pusher(mainHost, "--no-docker", "--libvirt.uri="+libvirt.URI)
	three := rig.Prometheus(t, rig.Prometheus3, "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n"+
		"  - {job_name: testbed, metrics_path: /metrics/testbed, params: {scraper: [uk]}, honor_labels: true, scrape_protocols: [PrometheusProto], static_configs: [{targets: ['"+strings.TrimPrefix(b.url, "http://")+"']}]}\n")
	const identity = `guest_name="uk",guest_type="libvirt",host_name="main-host"`
	of := func(name, more string) string { return fmt.Sprintf(`%s{%s%s}`, name, identity, more) }
	guest.WaitFor("serving on", time.Minute)

	value := func(expr string) float64 {
		t.Helper()
		var v float64
		rig.Eventually(t, 30*time.Second, func() (err error) {
			v, err = three.Value(expr)
			return err
		})
		return v
	}
	for _, name := range []string{"libukalloc_free_bytes", "libukalloc_allocations_total", "libuksched_cpu_seconds_total", "libuksched_switches_total"} {
		if v := value(of(name, "")); v <= 0 {
			t.Errorf("%s is %v", name, v)
		}
	}
	if v := value(of("testbed_guest_exporter_up", "")); v != 1 {
		t.Errorf("its page is said to be %v", v)
	}

	// What is there without any help from inside; and nothing is made up of
	// what only a balloon driver could tell.
	for _, name := range []string{
		"testbed_guest_up", "testbed_guest_cpu_usage_seconds_total", "testbed_guest_cpu", "testbed_guest_memory_usage_bytes",
		"testbed_guest_network_receive_bytes_total", "testbed_guest_network_transmit_bytes_total", "testbed_guest_start_time_seconds",
	} {
		value(of(name, ""))
	}
	for _, name := range []string{"testbed_guest_memory", "testbed_guest_memory_usable_bytes", "testbed_guest_memory_stats_age_seconds"} {
		if got := three.Query(t, of(name, "")); len(got) > 0 {
			t.Errorf("%s is there without a balloon driver: %v", name, got)
		}
	}

	t.Run("inside and outside agree", func(t *testing.T) {
		const into, out = 3 << 20, 5 << 20
		c, err := net.DialTimeout("tcp", inside+":7000", 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		go func() {
			_, _ = fmt.Fprintf(c, "%d\n", out)
			_, _ = c.Write(make([]byte, into))
		}()
		if n, err := io.Copy(io.Discard, bufio.NewReader(c)); n != out {
			t.Fatalf("got %d bytes of %d: %v", n, out, err)
		}
		for direction, least := range map[string]float64{"receive": into, "transmit": out} {
			inner := "libuknetdev_rx_bytes_total"
			if direction == "transmit" {
				inner = "libuknetdev_tx_bytes_total"
			}
			rig.Eventually(t, 20*time.Second, func() error {
				in, err := three.Value(of(inner, ""))
				if err != nil {
					return err
				}
				outer, err := three.Value(of("testbed_guest_network_"+direction+"_bytes_total", ""))
				if err != nil {
					return err
				}
				if in < least || outer < least || in > 1.3*least+1<<20 || outer < 0.98*in-10_000 || outer > 1.02*in+10_000 {
					return fmt.Errorf("%s: the guest counts %.0f, its host %.0f, and %.0f were sent", direction, in, outer, least)
				}
				return nil
			})
		}
	})

	t.Run("a reboot is a reset", func(t *testing.T) {
		libvirt.Virsh("destroy", guest.Name)
		rig.Eventually(t, 20*time.Second, func() error {
			if got := three.Query(t, of("libuksched_cpu_seconds_total", "")); len(got) > 0 {
				return fmt.Errorf("its page is still there: %v", got)
			}
			up, err := three.Value(of("testbed_guest_up", ""))
			if err == nil && up != 0 {
				err = fmt.Errorf("it is up")
			}
			return err
		})
		guest.Start()
		rig.Eventually(t, time.Minute, func() error {
			_, err := three.Value(of("libukalloc_allocations_total", ""))
			return err
		})
		if v := value(fmt.Sprintf("resets(%s[5m])", of("libuknetdev_rx_bytes_total", ""))); v != 1 {
			t.Errorf("%v resets of a counter, want 1", v)
		}
		if v := value(fmt.Sprintf("min_over_time(rate(%s[10s])[2m:1s])", of("libuknetdev_rx_bytes_total", ""))); v < 0 {
			t.Errorf("a rate of %v", v)
		}
	})
}
