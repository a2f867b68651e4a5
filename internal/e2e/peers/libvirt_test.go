package peers

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// cost is processor seconds of who takes part in sampling domains.
type cost struct{ program, libvirtd, emulators float64 }

// domains are what is sampled: they sleep.
type domains struct {
	libvirt   *rig.Libvirt
	emulators []int
}

const domainCount = 6

func newDomains(b *testing.B) *domains {
	b.Helper()
	d := &domains{libvirt: rig.Libvirtd(b)}
	for i := range domainCount {
		name := fmt.Sprint("lab0-quiet-", i)
		guest := d.libvirt.Define(rig.Domain{Name: name, MemoryMiB: 160, VCPUs: 1, Init: "echo booted; sleep 100000"}).Start()
		guest.WaitFor("booted", 2*time.Minute)
		d.emulators = append(d.emulators, emulator(b, name))
	}
	time.Sleep(5 * time.Second)
	return d
}

// emulator is the process that runs a domain.
func emulator(b *testing.B, name string) int {
	b.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, _ := os.ReadFile(file)
		if bytes.Contains(line, []byte("guest="+name+",")) && bytes.Contains(line, []byte("qemu")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			return pid
		}
	}
	b.Fatalf("no emulator runs %s", name)
	return 0
}

// meanwhile is what is spent while fn runs, a second at a time. A program of 0
// is none.
func (d *domains) meanwhile(b *testing.B, program int, fn func()) (c cost, seconds float64) {
	b.Helper()
	now := func() (c cost) {
		if program != 0 {
			c.program = processorSeconds(b, program)
		}
		c.libvirtd = processorSeconds(b, d.libvirt.Daemon().Cmd.Process.Pid)
		for _, pid := range d.emulators {
			c.emulators += processorSeconds(b, pid)
		}
		return c
	}
	before, begin := now(), time.Now()
	fn()
	after := now()
	seconds = time.Since(begin).Seconds()
	return cost{after.program - before.program, after.libvirtd - before.libvirtd, after.emulators - before.emulators}, seconds
}

// BenchmarkDomains is what it costs to sample libvirt's domains each second:
// with Debian's exporter, scraped, and with the pusher, everything included to
// the push, and the host's own samples too.
func BenchmarkDomains(b *testing.B) {
	rig.Need(b, "go", "libvirtd")
	y := newYard(b)
	d := newDomains(b)
	seconds := share(60)
	rest := func() { time.Sleep(time.Duration(seconds) * time.Second) }
	quiet, quietSeconds := d.meanwhile(b, 0, rest)

	report := func(b *testing.B, p *peer, c cost, seconds float64) {
		per := func(v, quiet float64) float64 { return (v/seconds - quiet/quietSeconds) / domainCount * 1e6 }
		program, libvirtd, emulators := per(c.program, 0), per(c.libvirtd, quiet.libvirtd), per(c.emulators, quiet.emulators)
		b.ReportMetric(program, "program-us/domain")
		b.ReportMetric(libvirtd, "libvirtd-us/domain")
		b.ReportMetric(emulators, "emulator-us/domain")
		y.results.put(p, "", "domain program", program)
		y.results.put(p, "", "domain libvirtd", libvirtd)
		y.results.put(p, "", "domain emulator", emulators)
		y.results.put(p, "", "domain", program+libvirtd+emulators)
	}
	host := &peer{name: gatewayName, note: "pusher, host and domains"}
	alone := &peer{name: "pusher", note: "host alone"}
	for _, run := range []struct {
		name  string
		p     *peer
		flags []string
	}{
		{"fanin", host, []string{"--libvirt.uri=" + d.libvirt.URI}},
		{"fanin-host-alone", alone, []string{"--no-libvirt"}},
	} {
		b.Run("program="+run.name, func(b *testing.B) {
			once(b)
			pusher := rig.Start(b, y.pusher, append([]string{
				"--push.url=http://" + y.sink + "/api/v1/write", "--node.name=node-00000", "--no-docker",
				"--spool.path=" + filepath.Join(b.TempDir(), "spool"), "--web.listen-address=" + fmt.Sprintf("127.0.0.1:%d", rig.FreePort(b)),
			}, run.flags...)...)
			defer pusher.Stop(stopGrace)
			time.Sleep(5 * time.Second)
			c, took := d.meanwhile(b, pusher.Cmd.Process.Pid, rest)
			report(b, run.p, c, took)
		})
	}
	exporter := &peer{name: "prometheus-libvirt-exporter", path: found("prometheus-libvirt-exporter")}
	if exporter.path == "" {
		y.results.missing = append(y.results.missing, exporter.name)
	} else {
		b.Run("program=exporter", func(b *testing.B) {
			once(b)
			address := fmt.Sprintf("127.0.0.1:%d", rig.FreePort(b))
			program := rig.Start(b, exporter.path, "--web.listen-address="+address, "--libvirt.uri="+d.libvirt.URI)
			defer program.Stop(stopGrace)
			rig.Eventually(b, 10*time.Second, func() error { _, err := get("http://" + address + "/metrics"); return err })
			c, took := d.meanwhile(b, program.Cmd.Process.Pid, func() {
				page := drive(b, y.load, "scrape", "http://"+address+"/metrics", "--every=1s", fmt.Sprint("--requests=", seconds), "--duration=5m")
				if page.Samples < 10*domainCount {
					b.Errorf("%d samples on its page: it does not see the domains", page.Samples)
				}
			})
			report(b, exporter, c, took)
		})
	}
	y.results.write(b, []table{{"domains.md", false, []column{
		{"program, us a domain and second", "%.0f", "domain program", false},
		{"libvirtd", "%.0f", "domain libvirtd", false},
		{"emulator", "%.0f", "domain emulator", false},
		{"in all", "%.0f", "domain", true},
	}}})
}
