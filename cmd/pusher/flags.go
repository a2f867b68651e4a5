package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/version"

	"fanin/internal/push"
	"fanin/internal/spool"
)

type options struct {
	node     string
	interval time.Duration

	url         string
	tokenFile   string
	user        string
	passwdFile  string
	caFile      string
	httpConfig  string
	spoolPath   string
	spoolFsync  string
	spoolBytes  int64
	spoolAge    time.Duration
	listen      []string
	webConfig   string
	sourceFlags sourceFlags
}

const (
	shortestInterval = 100 * time.Millisecond
	longestInterval  = time.Minute
	smallestSpool    = 1 << 20
	shortestSync     = 10 * time.Millisecond
	longestSync      = time.Minute
)

func flags(app *kingpin.Application) *options {
	o := new(options)
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "localhost"
	}
	app.Flag("node.name", "Name of this host in the testbed; the machine's own by default.").
		PlaceHolder("NAME").Default(hostname).StringVar(&o.node)
	app.Flag("sample.interval", "Time between two samples, 100ms to 1m.").
		Default("1s").DurationVar(&o.interval)

	app.Flag("push.url", "Where to push: a gateway, or anything else that takes Prometheus remote write.").
		Default("http://127.0.0.1:9370/api/v1/write").Envar("FANIN_PUSH_URL").StringVar(&o.url)
	app.Flag("push.bearer-token-file", "File with the node's token.").
		PlaceHolder("FILE").StringVar(&o.tokenFile)
	app.Flag("push.basic-auth-username", "User name for basic authentication.").
		PlaceHolder("NAME").StringVar(&o.user)
	app.Flag("push.basic-auth-password-file", "File with the password for basic authentication.").
		PlaceHolder("FILE").StringVar(&o.passwdFile)
	app.Flag("push.ca-file", "File with the certificates to trust, instead of the system's.").
		PlaceHolder("FILE").StringVar(&o.caFile)
	app.Flag("push.http-config.file", "File in the format of Prometheus' HTTP client configuration, instead of the four flags above.").
		PlaceHolder("FILE").StringVar(&o.httpConfig)

	app.Flag("spool.path", "Directory for what is not delivered yet, for this pusher alone. By default $STATE_DIRECTORY; without it /var/lib/fanin/spool for root and fanin/spool in $XDG_STATE_HOME or ~/.local/state for others.").
		PlaceHolder("DIR").StringVar(&o.spoolPath)
	app.Flag("spool.fsync", "When a sample is safe from a power cut: always (at once), or at most so long after it was taken, as in 1s.").
		Default("always").StringVar(&o.spoolFsync)
	app.Flag("spool.max-bytes", "How many bytes are kept there for a gateway that is away; the oldest is dropped first.").
		Default("536870912").Int64Var(&o.spoolBytes)
	app.Flag("spool.max-age", "How long they are kept.").
		Default("2h").DurationVar(&o.spoolAge)

	app.Flag("web.listen-address", "Address for the pusher's own metrics and health; may be given several times.").
		Default("127.0.0.1:9371").StringsVar(&o.listen)
	app.Flag("web.config.file", "File with TLS and user settings for it, in the format of the Prometheus exporter toolkit.").
		PlaceHolder("FILE").StringVar(&o.webConfig)

	o.sourceFlags.add(app)
	return o
}

// nodeName is what the gateway takes for a host's name.
var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

func (o *options) check() error {
	if !nodeName.MatchString(o.node) {
		return fmt.Errorf("--node.name %q: a name has 1 to 63 letters, digits, '_', '.' and '-', and begins with a letter or digit", o.node)
	}
	if err := push.CheckURL(o.url); err != nil {
		return fmt.Errorf("--push.url: %w", err)
	}
	if o.spoolBytes < smallestSpool || o.spoolAge < time.Second {
		return fmt.Errorf("--spool.max-bytes %d, --spool.max-age %s: must be at least 1048576 and 1s", o.spoolBytes, o.spoolAge)
	}
	if _, err := o.spoolSync(); err != nil {
		return err
	}
	return o.checkSampling()
}

// spoolSync reads --spool.fsync.
func (o *options) spoolSync() (time.Duration, error) {
	if o.spoolFsync == "always" {
		return 0, nil
	}
	d, err := time.ParseDuration(o.spoolFsync)
	if err != nil || d < shortestSync || d > longestSync {
		return 0, fmt.Errorf("--spool.fsync %q: must be always, or from %s to %s", o.spoolFsync, shortestSync, longestSync)
	}
	return d, nil
}

// spoolDir is the directory for the spool: the one that was asked for, or
// where such things belong (systemd.exec(5), XDG Base Directory
// Specification).
func (o *options) spoolDir(root bool, getenv func(string) string) (string, error) {
	state, _, _ := strings.Cut(getenv("STATE_DIRECTORY"), ":") // of several the first
	xdg, home := getenv("XDG_STATE_HOME"), getenv("HOME")
	switch {
	case o.spoolPath != "":
		return o.spoolPath, nil
	case state != "":
		return state, nil
	case root:
		return "/var/lib/fanin/spool", nil
	case filepath.IsAbs(xdg):
		return filepath.Join(xdg, "fanin", "spool"), nil
	case filepath.IsAbs(home):
		return filepath.Join(home, ".local", "state", "fanin", "spool"), nil
	}
	return "", errors.New("--spool.path: must be given, as there is no home directory for its default")
}

// openSpool opens the queue.
func (o *options) openSpool(log *slog.Logger) (*spool.Spool, error) {
	dir, err := o.spoolDir(os.Geteuid() == 0, os.Getenv)
	if err != nil {
		return nil, err
	}
	sync, err := o.spoolSync()
	if err != nil {
		return nil, err
	}
	queue, err := spool.Open(spool.Options{Dir: dir, Sync: sync, MaxBytes: o.spoolBytes, MaxAge: o.spoolAge, Log: log})
	if err != nil {
		return nil, fmt.Errorf("--spool.path: %w", err)
	}
	return queue, nil
}

// checkSampling is what the commands that push nothing check too.
func (o *options) checkSampling() error {
	if o.interval < shortestInterval || o.interval > longestInterval {
		return fmt.Errorf("--sample.interval %s: must be from %s to %s", o.interval, shortestInterval, longestInterval)
	}
	return o.sourceFlags.check()
}

// client is the HTTP client that the push flags describe.
func (o *options) client() (*http.Client, error) {
	c, from, err := o.clientConfig()
	if err != nil {
		return nil, err
	}
	client, err := push.NewClient(c, "fanin-pusher/"+version.Version)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", from, oneLine(err))
	}
	return client, nil
}

func (o *options) clientConfig() (c config.HTTPClientConfig, from string, err error) {
	single := o.tokenFile != "" || o.user != "" || o.passwdFile != "" || o.caFile != ""
	switch {
	case o.httpConfig != "" && single:
		return c, "", errors.New("--push.http-config.file excludes the other flags for credentials and certificates")
	case o.httpConfig != "":
		from = "--push.http-config.file " + o.httpConfig
		read, _, err := config.LoadHTTPConfigFile(o.httpConfig)
		if err != nil {
			return c, "", fmt.Errorf("%s: %s", from, oneLine(err))
		}
		return *read, from, nil
	case o.tokenFile != "" && o.user != "":
		return c, "", errors.New("--push.bearer-token-file and --push.basic-auth-username exclude each other")
	case (o.user == "") != (o.passwdFile == ""):
		return c, "", errors.New("--push.basic-auth-username and --push.basic-auth-password-file need each other")
	}
	from = "--push.ca-file"
	c.TLSConfig.CAFile = o.caFile
	if o.tokenFile != "" {
		from = "--push.bearer-token-file"
		c.Authorization = &config.Authorization{CredentialsFile: o.tokenFile}
	}
	if o.user != "" {
		from = "--push.basic-auth-password-file"
		c.BasicAuth = &config.BasicAuth{Username: o.user, PasswordFile: o.passwdFile}
	}
	return c, from, nil
}

// oneLine is the message of an error from a YAML reader, which takes several.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
