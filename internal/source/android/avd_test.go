package android

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// Where the AVD's hardware is found: by the process' own environment and
// arguments, each of which may say otherwise than the one before.
func TestHardware(t *testing.T) {
	programs := emulators(t)
	qemu := filepath.Join(programs, "qemu-system-x86_64")
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir, avd string) (args, env []string)
		home string // --android.avd-home, DIR is the test's folder
		want hardware
	}{
		{name: "nothing is known", make: func(*testing.T, string, string) (args, env []string) { return nil, nil }},
		{
			name: "HOME", want: hardware{4, 2 << 30},
			make: func(t *testing.T, dir, avd string) (args, env []string) {
				config(t, filepath.Join(dir, ".android/avd", avd+".avd"), "hw.cpu.ncore=4\nhw.ramSize=2048\n")
				return nil, []string{"HOME=" + dir}
			},
		},
		{
			name: "ANDROID_AVD_HOME goes before HOME", want: hardware{2, 1 << 30},
			make: func(t *testing.T, dir, avd string) (args, env []string) {
				config(t, filepath.Join(dir, ".android/avd", avd+".avd"), "hw.cpu.ncore=4\n")
				config(t, filepath.Join(dir, "avds", avd+".avd"), "hw.cpu.ncore = 2\nhw.ramSize = 1G\n")
				return nil, []string{"HOME=" + dir, "ANDROID_AVD_HOME=" + dir + "/avds"}
			},
		},
		{
			name: "NAME.ini says where", want: hardware{cores: 6},
			make: func(t *testing.T, dir, avd string) (args, env []string) {
				config(t, filepath.Join(dir, "else", "where"), "hw.cpu.ncore=6\n")
				ini := fmt.Sprintf("avd.ini.encoding=UTF-8\npath=%s/else/where\npath.rel=avd/%s.avd\n", dir, avd)
				if err := os.MkdirAll(filepath.Join(dir, ".android/avd"), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, ".android/avd", avd+".ini"), []byte(ini), 0o644); err != nil {
					t.Fatal(err)
				}
				return nil, []string{"HOME=" + dir}
			},
		},
		{
			name: "-datadir", want: hardware{cores: 5},
			make: func(t *testing.T, dir, avd string) (args, env []string) {
				config(t, filepath.Join(dir, ".android/avd", avd+".avd"), "hw.cpu.ncore=4\n")
				config(t, filepath.Join(dir, "data"), "hw.cpu.ncore=5\n")
				return []string{"-datadir", dir + "/data"}, []string{"HOME=" + dir}
			},
		},
		{
			name: "arguments", want: hardware{8, 3 << 30},
			make: func(t *testing.T, dir, avd string) (args, env []string) {
				config(t, filepath.Join(dir, ".android/avd", avd+".avd"), "hw.cpu.ncore=4\nhw.ramSize=2048\n")
				return []string{"-cores", "8", "-memory", "3072"}, []string{"HOME=" + dir}
			},
		},
		{
			name: "what this run has written down", want: hardware{4, 2 << 30},
			make: func(t *testing.T, dir, avd string) (args, env []string) {
				folder := filepath.Join(dir, ".android/avd", avd+".avd")
				config(t, folder, "hw.cpu.ncore=4\nhw.ramSize=512\n")
				hardwareIni(t, folder, "hw.ramSize = 2048\n", time.Now().Add(time.Minute))
				return nil, []string{"HOME=" + dir}
			},
		},
		{
			name: "what an earlier run has", want: hardware{4, 512 << 20},
			make: func(t *testing.T, dir, avd string) (args, env []string) {
				folder := filepath.Join(dir, ".android/avd", avd+".avd")
				config(t, folder, "hw.cpu.ncore=4\nhw.ramSize=512\n")
				hardwareIni(t, folder, "hw.ramSize = 2048\n", time.Now().Add(-time.Hour))
				return nil, []string{"HOME=" + dir}
			},
		},
		{
			name: "the folder that was given", home: "DIR/given", want: hardware{cores: 7},
			make: func(t *testing.T, dir, avd string) (args, env []string) {
				config(t, filepath.Join(dir, ".android/avd", avd+".avd"), "hw.cpu.ncore=4\nhw.ramSize=512\n")
				config(t, filepath.Join(dir, "given", avd+".avd"), "hw.cpu.ncore=7\n")
				return nil, []string{"HOME=" + dir}
			},
		},
		{
			name: "a pipe is not waited for",
			make: func(t *testing.T, dir, avd string) (args, env []string) {
				folder := filepath.Join(dir, ".android/avd", avd+".avd")
				if err := os.MkdirAll(folder, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := syscall.Mkfifo(filepath.Join(folder, "config.ini"), 0o644); err != nil {
					t.Fatal(err)
				}
				return nil, []string{"HOME=" + dir}
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, avd := t.TempDir(), avdName()
			args, env := c.make(t, dir, avd)
			start(t, exec.Command(qemu, append([]string{"-avd", avd}, args...)...), "qemu-system-x86_64", env...)
			s := &Source{}
			if c.home != "" {
				s.AVDHome = filepath.Join(dir, c.home[4:])
			}
			began := time.Now()
			k := appears(t, source(t, s), avd)
			if took := time.Since(began); took >= time.Second { // after which it would be given up
				t.Errorf("it took %s", took)
			}
			for name, want := range map[string]float64{"testbed_guest_cpu_limit_cores": c.want.cores, "testbed_guest_memory_limit_bytes": c.want.memory} {
				if p, there := k[name]; there != (want > 0) || p.V != want {
					t.Errorf("%s is %v (there: %v), want %v", name, p.V, there, want)
				}
			}
		})
	}
}

func hardwareIni(t *testing.T, dir, text string, at time.Time) {
	t.Helper()
	name := filepath.Join(dir, "hardware-qemu.ini")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, at, at); err != nil {
		t.Fatal(err)
	}
}

// The emulator writes its hardware down after it has been found.
func TestHardwareLater(t *testing.T) {
	programs := emulators(t)
	dir, avd := t.TempDir(), avdName()
	start(t, exec.Command(filepath.Join(programs, "emulator"), "-avd", avd), "qemu-system-x86_64", "HOME="+dir)
	s := source(t, &Source{})
	if k := appears(t, s, avd); k["testbed_guest_cpu_limit_cores"].T != 0 {
		t.Fatalf("the hardware is known before it was written:\n%s", k)
	}
	config(t, filepath.Join(dir, ".android/avd", avd+".avd"), "hw.cpu.ncore=4\n")
	rig.Eventually(t, 2*time.Second, func() error {
		if k := appears(t, s, avd); k["testbed_guest_cpu_limit_cores"].V != 4 {
			return fmt.Errorf("the hardware is not known:\n%s", k)
		}
		return nil
	})
}
