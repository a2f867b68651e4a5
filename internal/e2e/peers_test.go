package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
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

// entrant is an agent in a run.
type entrant struct {
	agent
	berth
	*program
	target  *target       // of others than ours
	journal *spoolJournal // of ours
	crashes int
	before  history // what ours had committed before a byte of it was flipped

	committed int          // or scraped, at the end
	found     []rig.Series // by the receiver
	last      ledger       // of ours
}

// contest is one fault on all agents at once.
type contest struct {
	t        *testing.T
	diary    *diary
	receiver *rig.PrometheusServer
	entrants []*entrant
}

// row is what came of it.
type row struct {
	fault, agent              string
	committed, arrived, wrong int
	remark                    string
}

// TestPeers puts the same faults on our pusher and on other agents, at the same
// time and with the same receiver, and writes a table of what was lost to the
// file that FANIN_PEERS names. Only what is said of ours is a test.
func TestPeers(t *testing.T) {
	to := os.Getenv("FANIN_PEERS")
	if to == "" {
		t.Skip("it compares with other programs and takes five minutes: `make chaos-peers` runs it")
	}
	rig.NeedRoot(t)
	all, left := agents(t)
	var rows []row
	for _, fault := range []struct {
		short, name string
		do          func(*contest)
	}{
		{"killed", "receiver away for 40 s, agent killed with -9 in between", (*contest).killed},
		{"flipped", "receiver away, agent stopped, one byte of its queue on disk flipped", (*contest).flipped},
		{"full", "receiver away, the queue's disk full for 20 s", (*contest).full},
	} {
		t.Run(fault.short, func(t *testing.T) {
			c := newContest(t, all)
			fault.do(c)
			for _, r := range c.end() {
				r.fault = fault.name
				t.Logf("%s: %d of %d arrived, %d wrong%s", r.agent, r.arrived, r.committed, r.wrong, r.remark)
				rows = append(rows, r)
			}
		})
	}
	if t.Failed() {
		return // there may be no rows for it all
	}
	var table strings.Builder
	fmt.Fprintf(&table, "| fault | agent | scraped or committed | arrived | lost | arrived with another value |\n|---|---|---:|---:|---:|---:|\n")
	for _, r := range rows {
		fmt.Fprintf(&table, "| %s | %s | %d | %d | %d | %d%s |\n", r.fault, r.agent, r.committed, r.arrived, r.committed-r.arrived, r.wrong, r.remark)
	}
	if len(left) > 0 {
		fmt.Fprintf(&table, "\nNot installed and left out: %s.\n", strings.Join(left, ", "))
	}
	if err := os.WriteFile(to, []byte(table.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", table.String())
}

const diskSize = 16 << 20

// newContest starts everything and waits until the receiver has something of
// each agent. Each has its queue on a small disk of its own.
func newContest(t *testing.T, all []agent) *contest {
	t.Helper()
	c := &contest{t: t, diary: newDiary(t)}
	c.receiver = rig.Prometheus(t, rig.Prometheus3, "storage: {tsdb: {out_of_order_time_window: 1h}}\n", "--web.enable-remote-write-receiver")
	address, err := url.Parse(c.receiver.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		disk := t.TempDir()
		if err := unix.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d", diskSize)); err != nil {
			t.Fatalf("mount a tmpfs: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
		e := &entrant{agent: a, berth: berth{
			dir: t.TempDir(), queue: filepath.Join(disk, "queue"), receiver: address.Host, own: fmt.Sprintf("127.0.0.1:%d", rig.FreePort(t)),
		}}
		if err := os.Mkdir(e.queue, 0o700); err != nil {
			t.Fatal(err)
		}
		if a.ours {
			e.journal = keepJournal(t, e.queue, filepath.Join(disk, "journal"))
		} else {
			e.target = newTarget(t, a.name)
			e.berth.target = e.target.address
		}
		e.program = &program{t: t, diary: c.diary, name: a.name, command: func() *exec.Cmd { return a.command(e.berth) }}
		e.start()
		c.entrants = append(c.entrants, e)
	}
	for _, e := range c.entrants {
		rig.Eventually(t, 30*time.Second, func() error {
			_, n, err := c.arrived(e)
			if err == nil && n == 0 {
				err = fmt.Errorf("nothing of %s has arrived\n%s", e.agent.name, e.Tail(1000))
			}
			return err
		})
	}
	c.wait(10 * time.Second)
	return c
}

// wait looks after the agents meanwhile, as a service manager does.
func (c *contest) wait(d time.Duration) {
	c.t.Helper()
	for deadline := time.Now().Add(d); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		for _, e := range c.entrants {
			if err := e.Wait(0); errors.Is(err, rig.ErrStillRunning) {
				continue
			}
			e.crashes++
			c.diary.note("%s has ended by itself: %s", e.agent.name, lastLine(e.Tail(500)))
			e.start()
		}
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// arrived is what the receiver has of an agent.
func (c *contest) arrived(e *entrant) (found []rig.Series, n int, err error) {
	// A flipped byte may have made another series of one.
	selector := fmt.Sprintf(`{__name__!="up",__name__!~"scrape_.*",peer=%q}`, e.agent.name)
	if e.ours {
		selector = `{__name__=~"testbed_.+|fanin_.+"}`
	}
	found, err = c.receiver.TryQuery(selector + "[1h]")
	for _, series := range found {
		n += len(series.Points)
	}
	return found, n, err
}

func (c *contest) receiverLeaves() {
	c.t.Helper()
	c.diary.note("the receiver goes")
	if err := c.receiver.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	if err := c.receiver.Wait(30 * time.Second); errors.Is(err, rig.ErrStillRunning) {
		c.t.Fatal("the receiver does not end")
	}
}

func (c *contest) receiverReturns() {
	c.t.Helper()
	c.receiver.Restart(c.t)
	c.diary.note("the receiver is back")
}

func (c *contest) killed() {
	c.receiverLeaves()
	c.wait(20 * time.Second)
	for _, e := range c.entrants {
		if e.target != nil {
			e.target.between()
		}
		e.kill()
	}
	time.Sleep(time.Second)
	for _, e := range c.entrants {
		e.start()
	}
	c.wait(19 * time.Second)
	c.receiverReturns()
	c.wait(15 * time.Second)
}

func (c *contest) flipped() {
	c.receiverLeaves()
	c.wait(20 * time.Second)
	start := time.Now()
	for _, e := range c.entrants {
		if e.target != nil {
			e.target.between()
		}
		if err := e.Signal(syscall.SIGTERM); err != nil {
			c.t.Fatal(err)
		}
	}
	for _, e := range c.entrants {
		const patience = 90 * time.Second // systemd's
		if err := e.Wait(time.Until(start.Add(patience))); errors.Is(err, rig.ErrStillRunning) {
			c.diary.note("%s does not end within %s", e.agent.name, patience)
			e.kill()
		}
		c.flip(e)
	}
	for _, e := range c.entrants {
		e.start()
	}
	c.wait(5 * time.Second)
	c.receiverReturns()
	c.wait(15 * time.Second)
}

// flip changes a byte of the largest file of an agent's queue: at 87 %
// of what is written in it, where it has not been delivered and no record begins.
func (c *contest) flip(e *entrant) {
	c.t.Helper()
	var largest string
	var content []byte
	err := filepath.WalkDir(e.queue, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for len(b) > 0 && b[len(b)-1] == 0 {
			b = b[:len(b)-1]
		}
		if len(b) > len(content) {
			largest, content = path, b
		}
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if len(content) == 0 {
		c.t.Fatalf("%s has nothing on disk", e.agent.name)
	}
	if e.ours {
		e.journal.look()
		e.before, _, _ = e.journal.load("")
	}
	place := len(content) * 87 / 100
	f, err := os.OpenFile(largest, os.O_WRONLY, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{content[place] ^ 0x10}, int64(place)); err != nil {
		c.t.Fatal(err)
	}
	c.diary.note("%s: byte %d of %d of %s was flipped", e.agent.name, place, len(content), filepath.Base(largest))
}

func (c *contest) full() {
	c.receiverLeaves()
	c.wait(5 * time.Second)
	for _, e := range c.entrants {
		c.fill(e)
	}
	c.wait(20 * time.Second)
	for _, e := range c.entrants {
		if err := os.Remove(filler(e)); err != nil {
			c.t.Fatal(err)
		}
	}
	c.diary.note("the disks have room again")
	c.wait(10 * time.Second)
	c.receiverReturns()
	c.wait(15 * time.Second)
}

func filler(e *entrant) string { return filepath.Join(filepath.Dir(e.queue), "filler") }

// fill leaves no byte free on an agent's disk.
func (c *contest) fill(e *entrant) {
	c.t.Helper()
	f, err := os.Create(filler(e))
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 16, 1 << 10, 1} {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			c.t.Fatal(err)
		}
		err = nil
	}
	c.diary.note("the disk of %s is full", e.agent.name)
}

// end stops the scraping, gives everybody time to deliver the rest, and counts.
func (c *contest) end() (rows []row) {
	c.t.Helper()
	for _, e := range c.entrants {
		if e.ours {
			rig.Eventually(c.t, 30*time.Second, func() (err error) {
				if e.last, err = readLedger(e.own); err == nil && e.last.pending > 0 {
					err = fmt.Errorf("%v samples are pending", e.last.pending)
				}
				return err
			})
			e.terminate()()
			e.journal.close()
			continue
		}
		e.target.between()
		e.committed = e.target.end()
	}
	c.diary.note("nothing is scraped any more")
	last := map[*entrant]int{}
	for began, since := time.Now(), time.Now(); time.Since(since) < 15*time.Second && time.Since(began) < 2*time.Minute; time.Sleep(time.Second) {
		for _, e := range c.entrants {
			found, n, err := c.arrived(e)
			if err != nil {
				c.t.Fatal(err)
			}
			e.found = found
			if n != last[e] {
				last[e], since = n, time.Now()
			}
		}
	}
	for _, e := range c.entrants {
		r := row{agent: e.agent.name, committed: e.committed}
		if e.ours {
			r.committed, r.arrived = c.count(e)
		} else {
			r.arrived, r.wrong = e.target.sort(e.found)
		}
		if e.crashes > 0 {
			r.remark = fmt.Sprintf(" (it ended by itself %d times and was started again)", e.crashes)
		}
		rows = append(rows, r)
	}
	return rows
}

// count finds what ours has committed, a record that was damaged later
// included, and tests it: at most that record is lost, and the ledger says so.
func (c *contest) count(e *entrant) (committed, arrived int) {
	c.t.Helper()
	all, records, _ := e.journal.load("")
	damaged, most := 0, 0
	if e.before != nil {
		damaged = len((&expectation{history: e.before}).against(all).missing)
		for _, r := range records {
			most = max(most, r.samples)
		}
	}
	if damaged > most { // none when the byte was one of a frame, which is there twice
		c.t.Errorf("%d samples are damaged, want at most the %d of a record", damaged, most)
	}
	if int(e.last.dropped) != damaged || e.last.refused > 0 {
		c.t.Errorf("%d samples are damaged; the ledger says%s", damaged, e.last.text)
	}
	got := history{}
	for _, series := range e.found {
		got[stored(series.Labels)] = series.Points
	}
	differ := (&expectation{history: all}).against(got)
	differ.host, differ.records = e.agent.name, records
	c.diary.tell(c.t, differ)
	return differ.samples + damaged, differ.samples - len(differ.missing)
}
