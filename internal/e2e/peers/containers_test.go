package peers

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

const containerCount = 50

// BenchmarkContainers is what it costs to sample idle containers each second,
// everything included to the push: the pusher with them, and the same pusher
// with the host's own samples alone. The rest of what the host runs is not
// sampled.
func BenchmarkContainers(b *testing.B) {
	rig.Need(b, "go", "dockerd")
	y := newYard(b)
	docker := rig.Dockerd(b)
	for i := range containerCount {
		docker.Run(b, fmt.Sprint("lab-", i), rig.Container{}, "idle")
	}
	time.Sleep(5 * time.Second)
	seconds := share(60)
	measure := func(flags ...string) (perSecond, memory float64) {
		pusher := rig.Start(b, y.pusher, append([]string{
			"--push.url=http://" + y.sink + "/api/v1/write", "--node.name=node-00000", "--no-libvirt",
			"--spool.path=" + filepath.Join(b.TempDir(), "spool"), "--web.listen-address=" + fmt.Sprintf("127.0.0.1:%d", rig.FreePort(b)),
		}, flags...)...)
		defer pusher.Stop(stopGrace)
		time.Sleep(8 * time.Second)
		pid := pusher.Cmd.Process.Pid
		before, begin := processorSeconds(b, pid), time.Now()
		time.Sleep(time.Duration(seconds) * time.Second)
		return (processorSeconds(b, pid) - before) / time.Since(begin).Seconds(), resident(b, pid)
	}
	p := &peer{name: gatewayName, note: fmt.Sprintf("pusher, host and %d containers", containerCount)}
	b.Run("program=fanin", func(b *testing.B) {
		once(b)
		with, memory := measure("--docker.host=" + docker.Host())
		alone, _ := measure("--no-docker")
		each := (with - alone) / containerCount * 1e6
		b.ReportMetric(each, "us/container")
		b.ReportMetric(100*with, "%core")
		b.ReportMetric(100*alone, "%core-host-alone")
		b.ReportMetric(memory/(1<<20), "RSS-MiB")
		y.results.put(p, "", "container", each)
		y.results.put(p, "", "node", 100*with)
		y.results.put(p, "", "node alone", 100*alone)
		y.results.put(p, "", "node memory", memory/(1<<20))
	})
	y.results.write(b, []table{{"containers.md", false, []column{
		{"us a container and second", "%.0f", "container", false},
		{"% of a core", "%.2f", "node", false},
		{"% without containers", "%.2f", "node alone", false},
		{"RSS, MiB", "%.1f", "node memory", false},
	}}})
}
