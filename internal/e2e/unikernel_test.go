package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// build builds a static program of this module's for a guest.
func build(t *testing.T, folder string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(folder))
	cmd := exec.Command("go", "build", "-o", file, folder)
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

func TestUnikernel(t *testing.T) {
	bridge, _, inside := rig.Bridge(t)
	libvirt := rig.Libvirtd(t)
	guest := libvirt.Define(rig.Domain{
		Name: "signal-uk", MemoryMiB: 160, Program: build(t, "fanin/internal/e2e/unikernel"), Cmdline: "UK_ADDRESS=" + inside + "/24",
		Balloon: "<memballoon model='none'/>", Modules: rig.VirtioModules()[:8], Devices: "<interface type='bridge'><source bridge='" + bridge + "'/><model type='virtio'/></interface>",
	}).Start()
	guest.WaitFor("serving on", time.Minute)
	answer, err := http.Get(fmt.Sprintf("http://%s:9100/metrics", inside))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	t.Log(string(page), err)
}
