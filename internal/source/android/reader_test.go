package android

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fanin/internal/e2e/rig"
)

const readerFor = "FANIN_ANDROID_READER_FOR"

// TestReader is not a test but what TestWithoutPrivilege runs as another user:
// it prints what a Source says of one guest.
func TestReader(t *testing.T) {
	avd := os.Getenv(readerFor)
	if avd == "" {
		t.Skip("it is run by TestWithoutPrivilege")
	}
	s := source(t, &Source{AVDHome: os.Getenv("FANIN_ANDROID_AVD_HOME")})
	take(t, s)
	time.Sleep(200 * time.Millisecond)
	k, err := try(s)
	_, _ = os.Stdout.WriteString("page:\n" + k.of(avd).String() + "\nend\n")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.skips[skipUnreadable].Load(); n > 0 {
		t.Errorf("%d are skipped as unreadable", n)
	}
}

// A reader that may not look into other users' processes measures what
// everybody may see, and the rest is absent and no error.
func TestWithoutPrivilege(t *testing.T) {
	programs := emulators(t)
	rig.NeedRoot(t)
	avd := avdName()
	ns := rig.NetworkNamespace(t, avd+"-nmspc")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	reader := filepath.Join(programs, "reader.test")
	if err := os.WriteFile(reader, b, 0o755); err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(programs, "home")
	config(t, filepath.Join(home, ".android/avd", avd+".avd"), "hw.cpu.ncore=3\nhw.ramSize=1G\n")
	start(t, ns.Command(filepath.Join(programs, "emulator"), "-avd", avd), "qemu-system-x86_64", "HOME="+home)

	var capabilities []uintptr
	read := func(env ...string) string {
		t.Helper()
		cmd := exec.Command(reader, "-test.run=^TestReader$")
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), append(env, readerFor+"="+avd)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: capabilities}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("the reader: %v\n%s", err, out)
		}
		_, page, _ := strings.Cut(string(out), "page:\n")
		page, _, found := strings.Cut(page, "\nend\n")
		if !found || page == "" {
			t.Fatalf("the reader has no page of %s:\n%s", avd, out)
		}
		return "\n" + page
	}
	page := read()
	for _, want := range []string{
		"testbed_guest_up 1", "testbed_guest_info{", "testbed_guest_start_time_seconds ", usage + " ", `testbed_guest_cpu_seconds_total{mode="user"} `,
		"testbed_guest_memory_usage_bytes ", "testbed_guest_memory_swap_bytes 0", "testbed_guest_processes ",
		`testbed_guest_network_receive_bytes_total{device="eth0"} `, `testbed_guest_network_transmit_drops_total{device="eth0"} 0`,
	} {
		if !strings.Contains(page, "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
	for _, unwanted := range []string{
		"testbed_guest_disk_read_bytes_total", "testbed_guest_disk_written_bytes_total", // /proc/PID/io is not for everybody
		"testbed_guest_cpu_limit_cores", "testbed_guest_cpu ", "testbed_guest_memory_limit_bytes", // nor its environment
	} {
		if strings.Contains(page, "\n"+unwanted) {
			t.Errorf("%s is there, and can not be known", unwanted)
		}
	}
	if t.Failed() {
		t.Log(page)
	}
	// With it the file can be opened, and not be read.
	capabilities = []uintptr{unix.CAP_DAC_READ_SEARCH}
	if page := read(); strings.Contains(page, "testbed_guest_disk") || !strings.Contains(page, "testbed_guest_up 1") {
		t.Errorf("with CAP_DAC_READ_SEARCH:%s", page)
	}
	capabilities = nil
	page = read("FANIN_ANDROID_AVD_HOME=" + filepath.Join(home, ".android/avd"))
	for _, want := range []string{"testbed_guest_cpu_limit_cores 3", "testbed_guest_memory_limit_bytes 1.073741824e+09", "testbed_guest_cpu "} {
		if !strings.Contains(page, "\n"+want) {
			t.Errorf("with the AVDs' folder given: no %s in%s", want, page)
		}
	}
}

// A process in the host's network namespace has no interfaces of its own.
func TestHostNetwork(t *testing.T) {
	programs := emulators(t)
	avd := avdName()
	start(t, exec.Command(filepath.Join(programs, "emulator"), "-avd", avd), "qemu-system-x86_64")
	s := source(t, &Source{})
	for text := range appears(t, s, avd) {
		if strings.HasPrefix(text, "testbed_guest_network_") {
			t.Errorf("%s is the host's", text)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.emulators[avd].process; p.net != none || p.own || p.network == 0 {
		t.Errorf("got %+v, want the host's network namespace and no table", p)
	}
}
