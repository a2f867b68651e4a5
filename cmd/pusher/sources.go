package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"fanin/internal/guest"
	"fanin/internal/sampler"
	"fanin/internal/source/android"
	"fanin/internal/source/docker"
	"fanin/internal/source/exporter"
	"fanin/internal/source/host"
	"fanin/internal/source/libvirt"
)

// sourceFlags are the flags of the sources. A kind of guest that needs any has
// its own here.
type sourceFlags struct {
	procfs, sysfs string
	docker        bool
	dockerHost    string
	libvirt       bool
	libvirtURI    string
	libvirtPeriod time.Duration
	android       bool
	androidHome   string
	androidUsers  []string
	androidADB    bool
	exporter      exporterFlags
}

func (f *sourceFlags) add(app *kingpin.Application) {
	app.Flag("path.procfs", "Where the host's procfs is mounted.").Default("/proc").StringVar(&f.procfs)
	app.Flag("path.sysfs", "Where the host's sysfs is mounted.").Default("/sys").StringVar(&f.sysfs)
	app.Flag("docker", "Sample Docker containers, where there is Docker (--no-docker: never).").Default("true").BoolVar(&f.docker)
	app.Flag("docker.host", "Docker's socket.").Default(docker.DefaultHost).StringVar(&f.dockerHost)
	app.Flag("libvirt", "Sample libvirt domains, where there is libvirt (--no-libvirt: never).").Default("true").BoolVar(&f.libvirt)
	app.Flag("libvirt.uri", "Connection to libvirt, used read-only.").Default(libvirt.DefaultURI).StringVar(&f.libvirtURI)
	app.Flag("libvirt.memory-stats-period", "Have the balloon driver of each running domain asked for its memory this often, 1s to 1h, where the domain does not say how often; without that a guest's memory in use is known only at its boot. This changes the running domain, until it stops, and needs a connection that may write. 0s: never.").Default("0s").DurationVar(&f.libvirtPeriod)
	app.Flag("android", "Sample Android emulators, where there are any (--no-android: never).").Default("true").BoolVar(&f.android)
	app.Flag("android.avd-home", "The folder that holds the AVDs; by default what each emulator's environment says.").PlaceHolder("DIR").StringVar(&f.androidHome)
	app.Flag("android.user", "User whose emulators are believed, beside root, the pusher's own and those in a network namespace called AVD-nmspc; may be given several times.").PlaceHolder("NAME").StringsVar(&f.androidUsers)
	app.Flag("android.adb", "Ask the guests for their memory, through the adb server (127.0.0.1:5037) of each emulator's network namespace, every 10s. Takes CAP_SYS_ADMIN where that is not the pusher's own.").BoolVar(&f.androidADB)
	f.exporter.add(app)
}

// check finds what would only be noticed by a source that stays silent.
func (f *sourceFlags) check() error {
	for _, one := range []struct{ flag, folder, file string }{
		{"--path.procfs", f.procfs, "stat"},
		{"--path.sysfs", f.sysfs, "class"},
	} {
		if _, err := os.Stat(filepath.Join(one.folder, one.file)); err != nil {
			return fmt.Errorf("%s %s: %w", one.flag, one.folder, err)
		}
	}
	if p := f.libvirtPeriod; p != 0 && (p < time.Second || p > time.Hour || p%time.Second != 0) {
		return fmt.Errorf("--libvirt.memory-stats-period %s: must be 0s, or whole seconds from 1s to 1h", p)
	}
	if f.androidHome != "" && !filepath.IsAbs(f.androidHome) {
		return fmt.Errorf("--android.avd-home %q: must begin with a slash", f.androidHome)
	}
	if _, err := f.androidUIDs(); err != nil {
		return err
	}
	if path, ok := strings.CutPrefix(f.dockerHost, "unix://"); f.docker && (!ok || !filepath.IsAbs(path)) {
		return fmt.Errorf("--docker.host %q: must be unix:///PATH, as only containers of this machine can be sampled", f.dockerHost)
	}
	return f.exporter.check()
}

// androidUIDs are the numbers of the users that are named, or given as numbers.
func (f *sourceFlags) androidUIDs() ([]uint32, error) {
	var all []uint32
	for _, name := range f.androidUsers {
		number := name
		if u, err := user.Lookup(name); err == nil {
			number = u.Uid
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("--android.user %q: there is no such user here; its number will do", name)
		}
		all = append(all, uint32(n))
	}
	return all, nil
}

// kinds is the table of what can be sampled: a new kind of guest is a new
// line.
func (f *sourceFlags) kinds(interval time.Duration, list *exporter.List, log *slog.Logger) []kind {
	users, _ := f.androidUIDs() // has been checked
	containers := &docker.Source{Host: f.dockerHost, ProcRoot: f.procfs, SysRoot: f.sysfs, Interval: interval, Log: log}
	pages := &exporter.Source{
		Targets:  []func() []exporter.Target{labelled(containers), listed(list, containers)},
		Interval: interval, ProcRoot: f.procfs, Log: log,
	}
	f.exporter.apply(pages)
	containers.Changed = pages.Look
	if list != nil {
		list.Changed = pages.Look
	}
	return []kind{
		{true, &host.Source{ProcRoot: f.procfs, SysRoot: f.sysfs}},
		{f.docker, containers},
		{f.libvirt, &libvirt.Source{URI: f.libvirtURI, ProcRoot: f.procfs, Interval: interval, MemoryStatsPeriod: f.libvirtPeriod, Log: log}},
		{f.android, &android.Source{ProcRoot: f.procfs, AVDHome: f.androidHome, Users: users, ADB: f.androidADB, Log: log}},
		{f.exporter.on, pages},
	}
}

type kind struct {
	wanted bool
	source sampler.Source
}

// open returns the sources that are wanted. Nothing is started. list may be
// nil.
func (o *options) open(list *exporter.List, log *slog.Logger) []sampler.Source {
	var sources []sampler.Source
	for _, k := range o.sourceFlags.kinds(o.interval, list, log) {
		if k.wanted {
			sources = append(sources, k.source)
		}
	}
	return sources
}

// lister is a source that can say which guests it has.
type lister interface {
	Guests(ctx context.Context) ([]guest.Description, error)
}

// follower is a source that keeps a list or a connection up to date beside
// its samples.
type follower interface {
	Name() string
	Run(ctx context.Context) error
}

// followAgain is how long a follower that panicked is left alone.
const followAgain = 5 * time.Second

// survive runs a follower again when it panics: a bug in one source must not
// take the others' samples away. Its Sample works without Run meanwhile.
func survive(f follower, again time.Duration, log *slog.Logger) func(context.Context) error {
	once := func(ctx context.Context) (panicked bool, err error) {
		defer func() {
			if p := recover(); p != nil {
				log.Error("source panicked: please report this", "source", f.Name(), "err", p, "stack", string(debug.Stack()))
				panicked = true
			}
		}()
		return false, f.Run(ctx)
	}
	return func(ctx context.Context) error {
		for {
			panicked, err := once(ctx)
			if !panicked {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(again):
			}
		}
	}
}

func closeAll(sources []sampler.Source) {
	for _, s := range sources {
		if c, ok := s.(io.Closer); ok {
			_ = c.Close()
		}
	}
}
