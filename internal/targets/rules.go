package targets

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"strconv"
	"sync"
	"time"

	"go.yaml.in/yaml/v4"

	"fanin/internal/admission"
	"fanin/internal/deployment"
)

const (
	recheck      = time.Second
	maxRulesFile = 1 << 20
	maxRules     = 1_000
	maxPath      = 512
	defaultPath  = "/metrics"
)

// The shortest and the longest time between two scrapes. A series that is
// silent for 15 s ends.
const (
	shortestInterval = time.Second
	longestInterval  = 10 * time.Second
)

// Rules say which guests have a page. A nil Rules has none. Its methods may be
// called from any goroutine.
type Rules struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	checked time.Time
	version admission.FileVersion
	broken  bool
	rules   []rule
}

// NewRules reads the file at path. The file is YAML:
//
//	rules:
//	  - project: signal      # exact, or with *, ? and [a-z]; all when left out
//	    guest: "server*"     # the same, of the name in the deployment
//	    type: libvirt        # libvirt, docker or android; all when left out
//	    port: 9100           # needed
//	    path: /metrics       # when it is another one
//	    interval: 5s         # 1s to 10s; the pusher's when left out
//
// A guest has a page for each port that rules name; of several rules about one
// port the first counts. The file is read again when it changes; a version that
// is wrong is reported and the one before stays in force.
func NewRules(path string, log *slog.Logger) (*Rules, error) {
	r := &Rules{path: path, log: log}
	if err := r.read(); err != nil {
		return nil, err
	}
	r.checked = time.Now()
	return r, nil
}

// CheckRules reports what is wrong with a file of rules, and how many it has.
func CheckRules(path string) (int, error) {
	r, err := NewRules(path, nil)
	if err != nil {
		return 0, err
	}
	return len(r.rules), nil
}

// current are the rules in force. The slice is not changed; another version is
// another slice.
func (r *Rules) current() []rule {
	if r == nil {
		return nil
	}
	r.refresh()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rules
}

// failing reports whether the file can not be used.
func (r *Rules) failing() bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.broken
}

func (r *Rules) refresh() {
	r.mu.Lock()
	due := time.Since(r.checked) >= recheck
	if due {
		r.checked = time.Now()
	}
	r.mu.Unlock()
	if !due {
		return
	}
	err := r.read()
	r.mu.Lock()
	was := r.broken
	r.broken = err != nil
	r.mu.Unlock()
	switch {
	case err != nil && !was:
		r.log.Error("exporter rules can not be used; the last good version stays in force", "err", err)
	case err == nil && was:
		r.log.Info("exporter rules can be used again", "file", r.path)
	}
}

// read takes the file in when it is another one than last time.
func (r *Rules) read() error {
	f, err := os.Open(r.path)
	if err != nil {
		return fmt.Errorf("read exporter rules: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read exporter rules: %w", err)
	}
	version := admission.VersionOf(info)
	r.mu.Lock()
	same := version == r.version && !r.broken
	r.mu.Unlock()
	if same {
		return nil
	}
	content, err := io.ReadAll(io.LimitReader(f, maxRulesFile+1))
	if err != nil {
		return fmt.Errorf("read exporter rules: %w", err)
	}
	rules, err := parseRules(content)
	if err != nil {
		return fmt.Errorf("exporter rules %s: %w", r.path, err)
	}
	r.mu.Lock()
	r.rules, r.version = rules, version
	r.mu.Unlock()
	return nil
}

// rule is one element of the file. Port and Interval are kept as they are
// written: a reader of numbers would take 0x50 and 080 for some.
type rule struct {
	Project  string `yaml:"project"`
	Guest    string `yaml:"guest"`
	Type     string `yaml:"type"`
	Port     string `yaml:"port"`
	Path     string `yaml:"path"`
	Interval string `yaml:"interval"`
}

func (r *rule) matches(g *deployment.Guest) bool {
	return (r.Type == "" || r.Type == g.Kind) && like(r.Project, g.Project) && like(r.Guest, g.Name)
}

// like reports whether name is what the pattern, which is well formed, means.
func like(pattern, name string) bool {
	if pattern == "" {
		return true
	}
	ok, _ := path.Match(pattern, name)
	return ok
}

func parseRules(content []byte) ([]rule, error) {
	if len(content) > maxRulesFile {
		return nil, fmt.Errorf("is larger than %d bytes", maxRulesFile)
	}
	var file struct {
		Rules []rule `yaml:"rules"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(file.Rules) > maxRules {
		return nil, fmt.Errorf("has %d rules, at most %d are taken", len(file.Rules), maxRules)
	}
	for i := range file.Rules {
		if err := file.Rules[i].check(); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	return file.Rules, nil
}

// check finds what is wrong with a rule, and fills in what is left out.
func (r *rule) check() error {
	for _, p := range [...]string{r.Project, r.Guest} {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("%q is no pattern", p)
		}
	}
	switch r.Type {
	case "", deployment.Libvirt, deployment.Docker, deployment.Android:
	default:
		return fmt.Errorf("type %q: must be libvirt, docker or android", r.Type)
	}
	if n, err := strconv.ParseUint(r.Port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != r.Port {
		return fmt.Errorf("port %q: must be a decimal number from 1 to 65535", r.Port)
	}
	if r.Path == "" {
		r.Path = defaultPath
	}
	if !validPath(r.Path) {
		return fmt.Errorf("path %q: must begin with one /, and have neither spaces nor ? # @ \\", r.Path)
	}
	if r.Interval != "" {
		if d, err := time.ParseDuration(r.Interval); err != nil || d < shortestInterval || d > longestInterval {
			return fmt.Errorf("interval %q: must be from %s to %s", r.Interval, shortestInterval, longestInterval)
		}
	}
	return nil
}

// validPath takes an absolute path in visible ASCII, without query and
// fragment.
func validPath(s string) bool {
	if len(s) > maxPath || s == "" || s[0] != '/' || len(s) > 1 && s[1] == '/' {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c >= 0x7f, c == '@', c == '#', c == '?', c == '\\':
			return false
		}
	}
	return true
}
