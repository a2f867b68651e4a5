package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"fanin/internal/e2e/rig"
)

// TestDemo: on a machine without anything else the demo shows charts that move
// within seconds, by loopback alone, and leaves nothing behind.
func TestDemo(t *testing.T) {
	needScript(t)
	root := t.TempDir()
	for _, name := range []string{"bin", "stack"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"pusher", "gateway"} {
		if err := os.Symlink(filepath.Join(programs(t), name), filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	script, err := os.ReadFile(filepath.Join(rig.Root(t), "stack/demo"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "stack/demo"), script, 0o755); err != nil {
		t.Fatal(err)
	}
	port := rig.FreePort(t)
	cmd := exec.Command(filepath.Join(root, "stack/demo"))
	cmd.Env = append(os.Environ(), fmt.Sprint("DEMO_PORT=", port), "TMPDIR="+root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	began := time.Now()
	demo := rig.StartCmd(t, cmd)
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	rig.Eventually(t, 15*time.Second, func() error {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	tab := rig.Chromium(t, 1000, 800)
	rig.Eventually(t, 40*time.Second, func() error {
		_, err := chromedp.Run(tab.Context(), chromedp.NavigateResponse(url+"/dashboard/demo?range=300"))
		if err == nil {
			_, err = rig.TryAsk[bool](tab, `document.getElementById("charts").dataset.source.length > 0`)
		}
		return err
	})
	rig.Ask[bool](tab, `document.getElementById("chart-host-cpu").scrollIntoView() === undefined`)
	tab.Until(40*time.Second, hasLines("host-cpu"))
	first := rig.Ask[float64](tab, `document.getElementById("chart-host-cpu").plot.data[0].at(-1)`)
	tab.Until(40*time.Second, fmt.Sprintf(`document.getElementById("chart-host-cpu").plot.data[0].at(-1) > %f`, first))
	t.Logf("charts move %.1f s after the start of the demo, the browser's start included", time.Since(began).Seconds())
	clean(t, tab, url)
	if err := demo.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := demo.Wait(20 * time.Second); err != nil {
		t.Errorf("the end of the demo: %v\n%s", err, demo.Tail(500))
	}
	if left, _ := filepath.Glob(filepath.Join(root, "fanin-demo.*")); len(left) > 0 {
		t.Errorf("it leaves %v behind", left)
	}
}
