//go:build cgo

package libvirt

import (
	"reflect"
	"strings"
	"testing"
	"time"

	api "libvirt.org/go/libvirt"

	"fanin/internal/cgroup"
)

// domainXML is from a running domain of libvirt 9.0, shortened.
const domainXML = `<domain type='qemu' id='1'>
  <name>signal-server</name>
  <uuid>0dd300f7-a448-4de2-b4f0-728a8f24ce4a</uuid>
  <memory unit='KiB'>163840</memory>
  <currentMemory unit='KiB'>131072</currentMemory>
  <vcpu placement='static' current='2'>4</vcpu>
  <os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <interface type='bridge'>
      <mac address='52:54:00:88:14:90'/>
      <source bridge='br-int'/>
      <target dev='vnet0'/>
      <model type='virtio'/>
    </interface>
    <interface type='direct'><source dev='eth0' mode='bridge'/><target dev='macvtap3'/></interface>
    <interface type='user'><mac address='52:54:00:88:14:91'/></interface>
    <memballoon model='virtio'><stats period='1'/></memballoon>
  </devices>
</domain>`

func TestParseDefinition(t *testing.T) {
	for name, c := range map[string]struct {
		xml  string
		want definition
	}{
		"running": {domainXML, definition{
			vcpus: 2, memory: 131072 * 1024, nics: []nic{{"vnet0", false}, {"macvtap3", true}}, balloon: true, period: time.Second,
		}},
		"no current":   {`<domain><memory unit='MiB'>1</memory><vcpu> 3 </vcpu></domain>`, definition{vcpus: 3, memory: 1 << 20}},
		"no unit":      {`<domain><memory>4</memory></domain>`, definition{memory: 4096}},
		"decimal unit": {`<domain><memory unit='MB'>2</memory></domain>`, definition{memory: 2e6}},
		"bytes":        {`<domain><memory unit='bytes'>7</memory></domain>`, definition{memory: 7}},
		"nonsense": {`<domain><memory unit='furlong'>7</memory><vcpu>-1</vcpu>
			<devices><interface type='bridge'><target/></interface></devices></domain>`, definition{}},
		"balloon that is not asked": {`<domain><devices><memballoon model='virtio-non-transitional'/></devices></domain>`, definition{balloon: true}},
		"no balloon":                {`<domain><devices><memballoon model='none'><stats period='x'/></memballoon></devices></domain>`, definition{}},
		"twice": {
			`<domain><devices><interface><target dev='a'/></interface><interface><target dev='a'/></interface></devices></domain>`,
			definition{nics: []nic{{"a", false}}},
		},
	} {
		got, err := parseDefinition([]byte(c.xml))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, c.want)
		}
	}
	if _, err := parseDefinition([]byte("<domain><memory>")); err == nil {
		t.Error("torn XML is no error")
	}
}

func FuzzParseDefinition(f *testing.F) {
	f.Add([]byte(domainXML))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseDefinition(b)
		if err == nil && (d.vcpus < 0 || d.memory < 0) {
			t.Errorf("got %+v", d)
		}
	})
}

const procStatLine = "21663 (qemu-system-x86) S 1 21663 21663 0 -1 138412416 16203 0 1 0 379 77 0 0 20 0 4 0 " +
	"126543 754974720 57971 18446744073709551615 1 1 0 0 0 0 268444224 4096 1208 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"

func TestParseProcStat(t *testing.T) {
	want := procStat{state: 'S', user: 3.79, system: 0.77, start: 1265.43, rssPages: 57971}
	if got, ok := parseProcStat([]byte(procStatLine)); !ok || got != want {
		t.Errorf("got %+v, %v, want %+v", got, ok, want)
	}
	tricky := "1 (a) R (b) Z 1 2 3 4 5 6 7 8 9 10 100 200 0 0 0 0 0 0 300 0 5"
	want = procStat{state: 'Z', user: 1, system: 2, start: 3, rssPages: 5}
	if got, ok := parseProcStat([]byte(tricky)); !ok || got != want {
		t.Errorf("%q: got %+v, %v, want %+v", tricky, got, ok, want)
	}
	for _, bad := range []string{"", "1 (a", "1 (a) ", "1 (a) S 1 2 3", "1 (a) S 1 2 3 4 5 6 7 8 9 10 x 200 0 0 0 0 0 0 300 0 5"} {
		if got, ok := parseProcStat([]byte(bad)); ok {
			t.Errorf("%q gave %+v", bad, got)
		}
	}
}

func FuzzParseProcStat(f *testing.F) {
	f.Add([]byte(procStatLine))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := parseProcStat(b); ok && (s.user < 0 || s.system < 0 || s.start < 0 || s.rssPages < 0) {
			t.Errorf("got %+v", s)
		}
	})
}

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 3296366   21474    0    0    0     0          0         0  3296366   21474    0    0    0     0       0          0
 vnet0:     696       8    1    2    0     0          0         0       90       5    3    4    0     0       0          0
vnet10:18446744073709551615 8 1 2 0 0 0 0 90 5 3 4 0 0 0 0
 vnet1: 1 2 3
`

func TestParseNetDev(t *testing.T) {
	rows := map[string]*netCounters{"vnet0": {}, "vnet10": {}, "vnet1": {}, "vnet2": {}}
	parseNetDev([]byte(netDev), 7, rows)
	want := map[string]*netCounters{
		"vnet0":  {receive: [4]float64{696, 8, 1, 2}, transmit: [4]float64{90, 5, 3, 4}, tick: 7},
		"vnet10": {receive: [4]float64{18446744073709551615, 8, 1, 2}, transmit: [4]float64{90, 5, 3, 4}, tick: 7},
		"vnet1":  {}, "vnet2": {},
	}
	for name := range want {
		if *rows[name] != *want[name] {
			t.Errorf("%s: got %+v, want %+v", name, *rows[name], *want[name])
		}
	}
}

func FuzzParseNetDev(f *testing.F) {
	f.Add([]byte(netDev))
	f.Fuzz(func(t *testing.T, b []byte) {
		row := &netCounters{}
		parseNetDev(b, 1, map[string]*netCounters{"vnet0": row})
		if row.tick == 0 && *row != (netCounters{}) {
			t.Errorf("a line that was not taken left %+v", row)
		}
	})
}

func TestUUIDOf(t *testing.T) {
	for line, want := range map[string]string{
		"qemu\x00-name\x00guest=a,debug-threads=on\x00-uuid\x000DD300F7-a448\x00-m\x001": "0dd300f7-a448",
		"qemu\x00-name\x00-uuidx\x00": "",
		"qemu\x00-uuid":               "",
		"":                            "",
	} {
		if got := uuidOf([]byte(line)); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

func FuzzUUIDOf(f *testing.F) {
	f.Add([]byte("qemu\x00-uuid\x001"))
	f.Fuzz(func(_ *testing.T, b []byte) { uuidOf(b) })
}

// The answers of virConnectGetAllDomainStats, as libvirt 9.0 gave them for a
// domain with a driver in its balloon, and for one without.
func TestReadingOf(t *testing.T) {
	at := time.Unix(1795348152, 0)
	some := func(v float64) cgroup.Value { return cgroup.Value{V: v, OK: true} }
	with := readingOf(&api.DomainStats{
		Balloon: &api.DomainStatsBalloon{
			CurrentSet: true, Current: 163840, MaximumSet: true, Maximum: 163840, UnusedSet: true, Unused: 97224,
			AvailableSet: true, Available: 125328, UsableSet: true, Usable: 102156, LastUpdateSet: true, LastUpdate: 1795348151,
			DiskCachesSet: true, DiskCaches: 2488, RssSet: true, Rss: 231884,
		},
		Vcpu: []api.DomainStatsVcpu{{TimeSet: true, Time: 4050000000, WaitSet: true, DelaySet: true, Delay: 432269532}, {}},
		Block: []api.DomainStatsBlock{
			{NameSet: true, Name: "vda", RdReqsSet: true, RdReqs: 9, RdBytesSet: true, RdBytes: 922112, RdTimesSet: true, RdTimes: 5711160},
			{},
		},
		Net: []api.DomainStatsNet{{NameSet: true, Name: "vnet0", RxBytesSet: true, RxBytes: 876, TxPktsSet: true, TxPkts: 6}},
	}, at)
	want := &reading{
		at: at, current: some(163840 * 1024), rss: some(231884 * 1024), updated: at.Add(-time.Second),
		unused: some(97224 * 1024), available: some(125328 * 1024), usable: some(102156 * 1024), cache: some(2488 * 1024),
		vcpus: []vcpuReading{{some(4.05), some(0), some(0.432269532)}, {}},
		disks: []diskReading{{"vda", [diskFamilies]cgroup.Value{some(922112), {}, some(9), {}, some(0.00571116), {}, {}}}},
		nets:  []netReading{{"vnet0", [netFamilies]cgroup.Value{0: some(876), 5: some(6)}}},
	}
	if !reflect.DeepEqual(with, want) {
		t.Errorf("got  %+v\nwant %+v", with, want)
	}
	without := readingOf(&api.DomainStats{Balloon: &api.DomainStatsBalloon{
		CurrentSet: true, Current: 163840, MaximumSet: true, Maximum: 163840, LastUpdateSet: true, RssSet: true, Rss: 231884,
	}}, at)
	want = &reading{at: at, current: some(163840 * 1024), rss: some(231884 * 1024)}
	if !reflect.DeepEqual(without, want) {
		t.Errorf("got  %+v\nwant %+v", without, want)
	}
}

func TestParseDepth(t *testing.T) {
	groups := "Groups:\t" + strings.Repeat("4294967294 ", 65536)
	for status, want := range map[string]int{
		"Name:\tqemu\nNSpid:\t12\nNSpgid:\t12\n":  1,
		"Name:\tqemu\nNSpid:\t12\t1\nNSpgid:\t12": 2,
		"Name:\tqemu\n":              1, // before 4.1
		groups + "\nNSpid:\t12\t1\n": 2,
		strings.Repeat("x", maxFile): 0,
	} {
		if got := parseDepth([]byte(status)); got != want {
			t.Errorf("%.60q: got %d, want %d", status, got, want)
		}
	}
}
