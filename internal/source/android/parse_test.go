package android

import (
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"fanin/internal/sample"
)

func TestParseCommandLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		want commandLine
	}{
		{[]string{"/opt/android-sdk/emulator/emulator", "-avd", "signal-phone"}, commandLine{avd: "signal-phone"}},
		{[]string{"qemu-system-x86_64-headless", "@phone", "-no-window"}, commandLine{avd: "phone"}},
		{
			[]string{"e", "-no-window", "-avd", "a", "-cores", "4", "-memory", "3072", "-datadir", "/d", "-qemu", "-m", "1", "-avd", "b"},
			commandLine{avd: "a", cores: 4, memoryMB: 3072, dataDir: "/d"},
		},
		{[]string{"e", "-avd", "a", "-avd", "b", "@c"}, commandLine{avd: "a"}}, // as the launcher has it
		{[]string{"e", "@a", "-avd", "b"}, commandLine{avd: "a"}},
		{[]string{"e", "-avd=a"}, commandLine{}}, // the emulator does not take it
		{[]string{"e", "--avd", "a"}, commandLine{}},
		{[]string{"e", "@"}, commandLine{}},
		{[]string{"e", "-qemu", "-avd", "a"}, commandLine{}},
		{[]string{"-avd", "a"}, commandLine{}}, // the first is the program
		{[]string{"e", "-avd"}, commandLine{}},
		{[]string{"e", "-avd", "", "@b"}, commandLine{avd: "b"}},
		{[]string{"e", "-cores", "-1", "-memory", "2G", "@b"}, commandLine{avd: "b"}},
		{[]string{}, commandLine{}},
	} {
		line := []byte(strings.Join(append(c.args, ""), "\x00"))
		if got := parseCommandLine(line); got != c.want {
			t.Errorf("%q: got %+v, want %+v", c.args, got, c.want)
		}
	}
	if got := parseCommandLine([]byte("e\x00-avd\x00signal-pho")); got.avd != "" {
		t.Errorf("a name that is cut off is %q", got.avd)
	}
}

func FuzzParseCommandLine(f *testing.F) {
	f.Add([]byte("e\x00-avd\x00a\x00-cores\x004\x00@b\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c := parseCommandLine(b); c.cores < 0 || c.memoryMB < 0 || strings.Contains(c.avd, "\x00") {
			t.Errorf("%q gave %+v", b, c)
		}
	})
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "signal-phone": true, "Pixel_8.1": true, "9": true, strings.Repeat("a", 127): true,
		"": false, "-a": false, ".a": false, "../../x": false, "a/b": false, "a b": false, "a\nb": false,
		"ä": false, "a\x00": false, `a"`: false, strings.Repeat("a", 128): false,
	} {
		if got := validName(name); got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}

func TestRoleOf(t *testing.T) {
	for program, want := range map[string]role{
		"emulator": launcher, "emulator-headless": launcher,
		"qemu-system-x86_64": engine, "qemu-system-i386-headless": engine, "qemu-system-x86": engine,
		"emulator64-x86": engine, "emulator-arm": engine,
		"ip": other, "sudo": other, "qemu-img": other, "emulators": other, "": other, "android-emulator": other,
	} {
		if got := roleOf(program); got != want {
			t.Errorf("%q: got %v, want %v", program, got, want)
		}
	}
}

// From kernels 6.18 and 5.10, the arguments' place hidden in the second.
const (
	statLine = "21663 (qemu-system-x86) S 1 21663 21663 0 -1 138412416 16203 0 1 0 379 77 0 0 20 0 4 0 " +
		"126543 754974720 57971 18446744073709551615 1 1 0 0 0 0 268444224 4096 1208 0 0 0 17 1 0 0 0 0 0 94 95 96 140721 140722 140722 140799 0\n"
	statHidden = "7 (a) R (b) Z 12 2 3 -4 5 6 7 8 9 10 100 200 -3 0 0 0 5 0 300 0 5 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)

func TestParseStat(t *testing.T) {
	for line, want := range map[string]procStat{
		statLine:   {state: 'S', parent: 1, user: 3.79, system: 0.77, threads: 4, start: 126543, args: 140721},
		statHidden: {state: 'Z', parent: 12, user: 1, system: 2, threads: 5, start: 300},
		"1 (a) S 1 2 3 4 5 6 7 8 9 10 100 200 0 0 0 0 1 0 300\n": {state: 'S', parent: 1, user: 1, system: 2, threads: 1, start: 300},
	} {
		if got, ok := parseStat([]byte(line)); !ok || got != want {
			t.Errorf("%q: got %+v, %v, want %+v", line, got, ok, want)
		}
	}
	for _, bad := range []string{"", "1 (a", "1 (a) ", "1 (a) S 1 2 3", "1 (a) S 1 2 3 4 5 6 7 8 9 10 x 200 0 0 0 0 1 0 300 0 5"} {
		if got, ok := parseStat([]byte(bad)); ok {
			t.Errorf("%q gave %+v", bad, got)
		}
	}
}

const statusText = "Name:\tqemu-system-x86\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t77\nPPid:\t1\n" +
	"Uid:\t1000\t0\t0\t0\nNSpid:\t77\nVmRSS:\t  231884 kB\nVmSwap:\t     512 kB\nThreads:\t4\n"

func TestParseStatus(t *testing.T) {
	if user, depth, ok := parseOwner([]byte(statusText)); user != 1000 || depth != 1 || !ok {
		t.Errorf("got user %d at depth %d, %v, want the real one, 1000, at 1", user, depth, ok)
	}
	if _, depth, _ := parseOwner([]byte("Uid:\t0\t0\t0\t0\nNSpid:\t77\t1\n")); depth != 2 {
		t.Errorf("got depth %d, want 2", depth)
	}
	for _, bad := range []string{"", "Uid:\n", "Uid:\t-1\n", "Uid:\t4294967296\t0\n", "XUid:\t1\n"} {
		if user, _, ok := parseOwner([]byte(bad)); ok {
			t.Errorf("%q gave user %d", bad, user)
		}
	}
	if swap, ok := parseSwap([]byte(statusText)); swap != 512<<10 || !ok {
		t.Errorf("got %v bytes of swap, %v, want 512 KiB", swap, ok)
	}
	for _, bad := range []string{"", "VmSwap:\t12 MB\n", "VmSwap:\tkB\n", "VmSwap:\t12\n"} {
		if swap, ok := parseSwap([]byte(bad)); ok {
			t.Errorf("%q gave %v", bad, swap)
		}
	}
}

func TestParseFiles(t *testing.T) {
	if pages, ok := parseStatm([]byte("184320 57971 1208 1 0 9 0\n")); pages != 57971 || !ok {
		t.Errorf("statm: got %v, %v", pages, ok)
	}
	for _, bad := range []string{"", "1", "1 x 2"} {
		if pages, ok := parseStatm([]byte(bad)); ok {
			t.Errorf("statm %q gave %v", bad, pages)
		}
	}
	const io = "rchar: 9\nwchar: 8\nsyscr: 7\nsyscw: 6\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 5\n"
	if r, w, ok := parseIO([]byte(io)); r != 4096 || w != 8192 || !ok {
		t.Errorf("io: got %v, %v, %v", r, w, ok)
	}
	if _, _, ok := parseIO([]byte("read_bytes: 1\ncancelled_write_bytes: 5\n")); ok {
		t.Error("io without write_bytes is no error")
	}
	if boot, ok := parseBootTime([]byte("cpu  1 2\nbtime 1795348152\nprocesses 9\n")); boot != 1795348152 || !ok {
		t.Errorf("btime: got %v, %v", boot, ok)
	}
}

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 3296366   21474    0    0    0     0          0         0  3296366   21474    0    0    0     0       0          0
  eth0:     696       8    1    2    0     0          0         0       90       5    3    4    0     0       0          0
 a:b.1: 18446744073709551615 8 1 2 0 0 0 0 90 5 3 4 0 0 0 0
  bad0: 1 2 3
`

func TestCutNetDev(t *testing.T) {
	got := map[string][netFamilies]float64{}
	for device, v, rest, ok := cutNetDev([]byte(netDev)); ok; device, v, rest, ok = cutNetDev(rest) {
		got[string(device)] = v
	}
	want := map[string][netFamilies]float64{
		"eth0":  {696, 8, 1, 2, 90, 5, 3, 4},
		"a:b.1": {18446744073709551615, 8, 1, 2, 90, 5, 3, 4},
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func FuzzProcFiles(f *testing.F) {
	for _, s := range []string{statLine, statHidden, statusText, netDev, "1 2 3", "read_bytes: 1\nwrite_bytes: 2\n", "btime 5\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := parseStat(b); ok && (s.user < 0 || s.system < 0 || s.threads < 0) {
			t.Errorf("stat: %+v", s)
		}
		if _, depth, ok := parseOwner(b); ok && depth < 0 {
			t.Errorf("depth %d", depth)
		}
		parseStatm(b)
		parseSwap(b)
		parseIO(b)
		parseBootTime(b)
		for device, _, rest, ok := cutNetDev(b); ok; device, _, rest, ok = cutNetDev(rest) {
			if len(device) == 0 || len(rest) >= len(b) {
				t.Errorf("device %q, and %q is left", device, rest)
			}
		}
	})
}

func TestSize(t *testing.T) {
	for s, want := range map[string]float64{
		"2048": 2 << 30, "2048M": 2 << 30, "2048MB": 2 << 30, "2G": 2 << 30, "2 G": 2 << 30, "2gb": 2 << 30, "2097152K": 2 << 30,
		"": 0, "G": 0, "-1": 0, "2T": 0, "2048B": 0, "1.5G": 0, "0x10": 0, "99999999999999999999": 0,
	} {
		if got := size(s); got != want {
			t.Errorf("%q: got %v, want %v", s, got, want)
		}
	}
}

func TestTakeHardware(t *testing.T) {
	for ini, want := range map[string]hardware{
		"hw.cpu.ncore=4\nhw.ramSize=2048\nvm.heapSize=512\n":      {4, 2 << 30},
		"hw.cpu.ncore = 2\r\nhw.ramSize = 1536M\r\n":              {2, 1536 << 20},
		"xhw.cpu.ncore=4\nhw.cpu.ncore.x=4\n#hw.ramSize=2048\n":   {},
		"hw.cpu.ncore=0\nhw.ramSize=0\n":                          {},
		"hw.cpu.ncore=many\nhw.ramSize=much\n":                    {},
		"hw.cpu.ncore=1\nhw.cpu.ncore=3\nhw.ramSize":              {cores: 3},
		"disk.dataPartition.size=6G\nimage.sysdir.1=system/x86\n": {},
	} {
		var got hardware
		if got.take([]byte(ini)); got != want {
			t.Errorf("%q: got %+v, want %+v", ini, got, want)
		}
	}
}

func FuzzTakeHardware(f *testing.F) {
	f.Add([]byte("hw.cpu.ncore=4\nhw.ramSize = 2048M\npath.rel=avd/x.avd\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var hw hardware
		if hw.take(b); hw.cores < 0 || hw.memory < 0 {
			t.Errorf("%q gave %+v", b, hw)
		}
		for _, home := range avdHomes(b) {
			if home[0] != '/' {
				t.Errorf("%q gave the relative %q", b, home)
			}
		}
	})
}

func TestAVDHomes(t *testing.T) {
	environ := strings.Join([]string{"HOME=/root", "X", "=y", "ANDROID_SDK_HOME=/sdk", "ANDROID_AVD_HOME=/avds", "ANDROID_EMULATOR_HOME=relative"}, "\x00")
	want := []string{"/avds", "/sdk/.android/avd", "/sdk/avd", "/root/.android/avd"}
	if got := avdHomes([]byte(environ)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := below("/proc/7/root", "/home/u", "..", "../../../etc"); got != "/proc/7/root/etc" {
		t.Errorf("a path with .. leaves its root: %q", got)
	}
}

const meminfo = "MemTotal:        2023408 kB\nMemFree:          143204 kB\nMemAvailable:    1201096 kB\nBuffers:            6300 kB\nCached:          1083024 kB\nSwapCached:            0 kB\n"

func TestParseAnswer(t *testing.T) {
	want := memory{total: 2023408 << 10, free: 143204 << 10, available: 1201096 << 10, buffers: 6300 << 10, cached: 1083024 << 10}
	for answer, name := range map[string]string{
		"signal-phone\n\n" + meminfo:          "signal-phone",
		"\nold\n" + meminfo:                   "old",
		"\r\n\r\n" + meminfo:                  "",
		"a b\n../x\nright\nwrong\n" + meminfo: "right",
	} {
		if avd, got := parseAnswer([]byte(answer)); avd != name || got != want {
			t.Errorf("%q: got %q, %+v, want %q, %+v", answer, avd, got, name, want)
		}
	}
	if _, got := parseAnswer([]byte("MemTotal: 12 MB\nMemFree: -1 kB\nMemAvailable: 99999999999999999999 kB\nBuffers: kB\n")); got != (memory{}) {
		t.Errorf("nonsense gave %+v", got)
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte("signal-phone\n" + meminfo))
	f.Fuzz(func(t *testing.T, b []byte) {
		avd, m := parseAnswer(b)
		if avd != "" && !validName(avd) || m.total < 0 || m.available < 0 {
			t.Errorf("%q gave %q, %+v", b, avd, m)
		}
	})
}

// A guest that says anything of its memory has no more than all of it in use.
func TestMemoryOfALiar(t *testing.T) {
	e := newEmulator("phone")
	e.hardware.memory = 2 << 30
	for i, c := range []struct{ total, available, want float64 }{
		{2 << 30, 1 << 30, 50}, {1 << 50, 1, 100}, {1, 2, 0},
	} {
		e.memory = memory{at: time.Now().Add(time.Duration(i) * time.Second), total: c.total, available: c.available}
		var b sample.Batch
		e.sampleGuest(&b)
		got := 0.0
		for _, p := range b.Points {
			if p.Series == e.legacyMemory {
				got = p.V
			}
		}
		if got != c.want {
			t.Errorf("of %v bytes %v are to be had: got %v percent, want %v", c.total, c.available, got, c.want)
		}
	}
}
