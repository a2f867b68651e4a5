// Simulate shows how the gateway's cost grows with the number of nodes, in one
// process and without a network: many virtual nodes push to the real endpoint,
// admission, window and pages, tick after tick as fast as it goes, and a reader
// that must have everything collects once a tick. What nodes say is made
// beforehand and is not counted; times are processor time of this process, the
// collector's included, and memory is the live heap.
//
//	simulate --nodes=10000
//
// prints two tables: nodes of the same size, more and more of them; and the same
// number of series, spread over more and more nodes, where a page must take the
// same time. With --check it fails when it does not.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"slices"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"fanin/internal/e2e/fleet"
)

// What no run may exceed.
const (
	maxNodes  = 20_000
	maxSeries = 1_000_000
)

func main() {
	app := kingpin.New("simulate", "How the gateway's cost grows with the number of nodes.")
	app.UsageWriter(os.Stdout)
	s := simulation{}
	app.Flag("nodes", "The most nodes.").Default("10000").IntVar(&s.nodes)
	app.Flag("guests", "Guests of a node, in the first table.").Default("2").IntVar(&s.guests)
	app.Flag("series", "Series of a guest, in the first table.").Default("10").IntVar(&s.series)
	app.Flag("same", "Series of all nodes, in the second table.").Default("100000").IntVar(&s.same)
	app.Flag("ticks", "Ticks that are measured.").Default("10").IntVar(&s.ticks)
	protocol := app.Flag("protocol", "Version of remote write.").Default("2").Enum("1", "2")
	app.Flag("http", "Push over connections on loopback; the client's part is then counted in.").BoolVar(&s.http)
	check := app.Flag("check", "Fail when pages of the same series differ by more than 10 % between 1 and 1,000 nodes.").Bool()
	profile := app.Flag("cpuprofile", "File for a profile of the measured ticks.").PlaceHolder("FILE").String()
	kingpin.MustParse(app.Parse(os.Args[1:]))
	s.protocol = fleet.Version((*protocol)[0] - '0')
	if err := run(os.Stdout, s, *check, *profile); err != nil {
		fmt.Fprintln(os.Stderr, "simulate:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, s simulation, check bool, profile string) error {
	if err := s.check(); err != nil {
		return err
	}
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if err := s.growing(out); err != nil {
		return err
	}
	spread, err := s.spread(out)
	if err == nil && check && spread > 1.1 {
		err = fmt.Errorf("a page of the same series costs up to %.2f times as much with another number of nodes, want at most 1.10", spread)
	}
	return err
}

// simulation is what is run.
type simulation struct {
	nodes, guests, series int
	same                  int
	ticks                 int
	protocol              fleet.Version
	http                  bool
}

func (s *simulation) check() error {
	switch {
	case s.nodes < 1 || s.nodes > maxNodes:
		return fmt.Errorf("--nodes %d: between 1 and %d", s.nodes, maxNodes)
	case s.guests < 1 || s.series < 1 || s.nodes*s.guests*s.series > maxSeries || s.same > maxSeries || s.same < 1000:
		return fmt.Errorf("at most %d series, and for the second table at least 1,000", maxSeries)
	case s.ticks < 1 || s.ticks > 100:
		return fmt.Errorf("--ticks %d: between 1 and 100", s.ticks)
	}
	return nil
}

// powers of ten up to the most, which is among them.
func powers(most int) (all []int) {
	for n := 1; n < most; n *= 10 {
		all = append(all, n)
	}
	return append(all, most)
}

// growing: more and more nodes of the same size.
func (s *simulation) growing(out io.Writer) error {
	fmt.Fprintf(out, "Nodes of %d guests with %d series each, remote write %d.0, a tick a second.\n\n", s.guests, s.series, s.protocol)
	fmt.Fprintln(out, "| nodes | series | us a push | ns a sample | page, ms | sweep, ms | % of a core | heap a node, B | a series, B |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|---|---|")
	for _, nodes := range powers(s.nodes) {
		f := fleet.Fleet{Nodes: nodes, Guests: s.guests, Series: s.series}
		_, c, err := s.measure(f)
		if err != nil {
			return err
		}
		push := c.pushing.Seconds() / float64(s.ticks*nodes)
		second := (c.pushing + c.paging + c.sweeping).Seconds() / float64(s.ticks)
		fmt.Fprintf(out, "| %d | %d | %.1f | %.0f | %.2f | %.2f | %.2f | %.0f | %.0f |\n", nodes, f.Total(), push*1e6, push*1e9/float64(s.guests*s.series),
			milliseconds(c.paging)/float64(s.ticks), milliseconds(c.sweeping)/float64(s.ticks), 100*second, c.heap/float64(nodes), c.heap/float64(f.Total()))
	}
	fmt.Fprintln(out)
	return nil
}

const sameGuests = 1000

// spread: the same guests and series, on more and more nodes. It returns how
// many times the cheapest page the dearest costs.
func (s *simulation) spread(out io.Writer) (float64, error) {
	var gateways []*gateway
	var all []costs
	var fleets []fleet.Fleet
	for _, nodes := range powers(min(s.nodes, sameGuests)) {
		f := fleet.Fleet{Nodes: nodes, Guests: sameGuests / nodes, Series: s.same / sameGuests}
		g, c, err := s.measure(f)
		if err != nil {
			return 0, err
		}
		gateways, all, fleets = append(gateways, g), append(all, c), append(fleets, f)
	}
	pages, err := newest(gateways)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(out, "%d series of %d guests, on more and more nodes.\n\n", s.same, sameGuests)
	fmt.Fprintln(out, "| nodes | ns a sample | newest page, ms | reader's page, ms | heap a series, B |")
	fmt.Fprintln(out, "|---|---|---|---|---|")
	for i, c := range all {
		f := fleets[i]
		fmt.Fprintf(out, "| %d | %.0f | %.2f | %.2f | %.0f |\n", f.Nodes, c.pushing.Seconds()/float64(s.ticks*f.Total())*1e9,
			milliseconds(pages[i]), milliseconds(c.paging)/float64(s.ticks), c.heap/float64(f.Total()))
	}
	spread := slices.Max(pages).Seconds() / slices.Min(pages).Seconds()
	fmt.Fprintf(out, "\nThe dearest newest page costs %.2f times the cheapest.\n", spread)
	return spread, nil
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

// processor is the time that this process has used.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // it knows no other fault than a wrong argument
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
