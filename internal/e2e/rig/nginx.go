package rig

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// NginxServer is a running Nginx. It has a folder of its own and touches
// nothing below /etc/nginx, /var and /run.
type NginxServer struct {
	*Process
	URL    string // http://127.0.0.1:port
	Dir    string // the prefix: holds nginx.conf and what it writes
	Config string // the path of nginx.conf, as filled in
}

// The words of a main configuration that [Nginx] fills in.
const (
	NginxListen = "${LISTEN}" // address and port on loopback
	NginxDir    = "${DIR}"    // a folder that the server may write to
)

// nobody is the account that Nginx runs under when the test is root.
const nobody = 65534

// Nginx starts a real Nginx in the foreground with the given main
// configuration, in which it fills in [NginxListen] and [NginxDir], and waits
// until it accepts connections. When the test is root the server runs as
// nobody, as it does in a container that is not root. It ends with the test.
func Nginx(t testing.TB, config string) *NginxServer {
	t.Helper()
	Need(t, "nginx")
	const tries = 3 // a port that was free may be taken by the time it is used
	for try := 1; ; try++ {
		n, address := newNginx(t, config)
		n.Process = StartCmd(t, nginxCommand(n, "-g", "daemon off;"))
		err := n.waitListening(address, 10*time.Second)
		if err == nil {
			return n
		}
		if try == tries || !strings.Contains(n.Tail(4096), "Address already in use") {
			t.Fatalf("nginx: %v\n%s", err, n.Tail(4096))
		}
	}
}

// NginxCheck runs `nginx -t` on the configuration that [Nginx] would start.
// What it printed is returned, warnings included.
func NginxCheck(t testing.TB, config string) (string, error) {
	t.Helper()
	Need(t, "nginx")
	n, _ := newNginx(t, config)
	out, err := nginxCommand(n, "-t").CombinedOutput()
	return string(out), err
}

// newNginx writes the configuration into a new folder. The folder is not
// t.TempDir(), whose parents only root may enter.
func newNginx(t testing.TB, config string) (n *NginxServer, address string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "fanin-nginx-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	address = fmt.Sprintf("127.0.0.1:%d", FreePort(t))
	n = &NginxServer{URL: "http://" + address, Dir: dir, Config: filepath.Join(dir, "nginx.conf")}
	filled := strings.NewReplacer(NginxListen, address, NginxDir, dir).Replace(config)
	if err := os.WriteFile(n.Config, []byte(filled), 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	return n, address
}

func nginxCommand(n *NginxServer, args ...string) *exec.Cmd {
	// -e: the log before the configuration is read; its built-in path is
	// below /var/log.
	cmd := exec.Command("nginx", append([]string{"-p", n.Dir, "-c", n.Config, "-e", "stderr"}, args...)...)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

func (n *NginxServer) waitListening(address string, d time.Duration) error {
	deadline := time.Now().Add(d)
	for {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return conn.Close()
		}
		switch end := n.Wait(50 * time.Millisecond); {
		case end == nil:
			return errors.New("ended by itself, with exit code 0")
		case !errors.Is(end, ErrStillRunning):
			return fmt.Errorf("ended by itself: %w", end)
		}
		if time.Now().After(deadline) {
			return errors.New("does not listen: " + err.Error())
		}
	}
}
