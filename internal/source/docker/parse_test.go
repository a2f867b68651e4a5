package docker

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:   67919     439    0    0    0     0          0         0    67919     439    0    0    0     0       0          0
  eth0: 548868410   27647    1    2    3     4          5         6  2062863   19112    7    8    9    10      11         12
eth0:1:18446744073709551615 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
 short: 1 2 3
  text: a b c d e f g h i j k l m n o p
  huge: 18446744073709551616 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
`

func devices(b []byte) (got []string) {
	parseNetDev(b, func(device []byte, v *[8]uint64) { got = append(got, fmt.Sprintf("%s %v", device, *v)) })
	return got
}

func TestParseNetDev(t *testing.T) {
	want := []string{
		"lo [67919 439 0 0 67919 439 0 0]",
		"eth0 [548868410 27647 1 2 2062863 19112 7 8]",
		"eth0:1 [18446744073709551615 2 3 4 9 10 11 12]",
	}
	if got := devices([]byte(netDev)); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestParseStartTime(t *testing.T) {
	for line, want := range map[string]float64{
		"1 (a) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2":      123.45,
		"1 (a) b (c)) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 100 1 2": 1,
		"1 (a) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0":                -1,
		"1 (a) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 x 1":            -1,
		"": -1,
	} {
		got, ok := parseStartTime([]byte(line))
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: got %v, want %v", line, got, want)
		}
	}
}

func TestParseHostFiles(t *testing.T) {
	cores, boot := parseStat([]byte("cpu  1 2\ncpu0 1 2\ncpu1 1 2\ncpu11 1\nintr 1\nbtime 1795347000\nprocesses 5\n"))
	if cores != 3 || boot != 1795347000 {
		t.Errorf("stat: got %v cores, boot %v; want 3, 1795347000", cores, boot)
	}
	for text, want := range map[string]float64{
		"MemTotal:       24684084 kB\nMemFree: 1 kB\n": 24684084 * 1024,
		"MemTotal: 5\n":                       0,
		"MemTotal: 99999999999999999999 kB\n": 0,
		"":                                    0,
	} {
		if got := parseMeminfo([]byte(text)); got != want {
			t.Errorf("meminfo %q: got %v, want %v", text, got, want)
		}
	}
	parent, levels, inner := parseStatus([]byte("Name:\tx\nPPid:\t77\nNSpid:\t1234\t1\n"))
	if parent != 77 || levels != 2 || inner != 1 {
		t.Errorf("status: got %d %d %d, want 77 2 1", parent, levels, inner)
	}
}

func TestThisMachine(t *testing.T) {
	var n node
	if err := n.refresh("/proc", n.read); err != nil {
		t.Fatal(err)
	}
	if n.cores < 1 || n.bytes < 1<<20 || n.boot < 1e9 {
		t.Errorf("this machine: got %v cores, %v bytes, booted at %v", n.cores, n.bytes, n.boot)
	}
}

func FuzzProcFiles(f *testing.F) {
	f.Add([]byte(netDev))
	for _, name := range []string{"/proc/self/stat", "/proc/self/status", "/proc/stat", "/proc/meminfo"} {
		if b, err := os.ReadFile(name); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		parseNetDev(b, func(device []byte, _ *[8]uint64) {
			if len(device) == 0 || strings.Contains(string(device), "\n") {
				t.Errorf("device %q", device)
			}
		})
		if v, ok := parseStartTime(b); ok && v < 0 {
			t.Errorf("start time %v", v)
		}
		if cores, boot := parseStat(b); cores < 0 || boot < 0 {
			t.Errorf("stat: %v %v", cores, boot)
		}
		if v := parseMeminfo(b); v < 0 {
			t.Errorf("memory %v", v)
		}
		parseStatus(b)
	})
}
