package admission

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.yaml.in/yaml/v4"

	"fanin/internal/deployment"
)

// NodeHeader carries the sender's own name. It is believed only where no
// credentials are configured and the request comes from loopback.
const NodeHeader = "X-Fanin-Node"

// Errors of [Nodes.Authenticate].
var (
	ErrNoCredentials  = errors.New("credentials are needed: a bearer token, or basic auth with the node's name and its token")
	ErrBadCredentials = errors.New("the credentials belong to no node")
	ErrNoName         = errors.New("say who you are: in the header " + NodeHeader + " or as the user of basic auth, with any password")
	ErrBrowser        = errors.New("a page in a browser is not believed without a nodes file; start the gateway with --push.nodes-file")
	ErrNotLoopback    = errors.New("without a nodes file only senders on this machine are believed; start the gateway with --push.nodes-file")
)

// Nodes knows who may send. Without a file it believes senders on loopback
// that did not come through a proxy and are no pages in a browser. Its methods may be called from any
// goroutine.
type Nodes struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	checked time.Time
	version FileVersion
	failing bool
	byToken map[[sha256.Size]byte]string // token's hash to host name
}

// FileVersion tells two versions of a file apart: a tool that keeps the times
// makes another file, or at least another time of change.
type FileVersion struct {
	modified time.Time
	size     int64
	file     uint64
	changed  syscall.Timespec
}

// VersionOf is the version that a file has now.
func VersionOf(info fs.FileInfo) FileVersion {
	v := FileVersion{modified: info.ModTime(), size: info.Size()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		v.file, v.changed = st.Ino, st.Ctim
	}
	return v
}

// NewNodes reads the file at path, or believes loopback when path is "". The
// file is YAML:
//
//	nodes:
//	  main-host: {token_sha256: 5e88...}  # hex
//	  client-1:  {token: a-long-random-word}
//
// It is read again when it changes; a version that is wrong is reported and
// the one before stays in force.
func NewNodes(path string, log *slog.Logger) (*Nodes, error) {
	n := &Nodes{path: path, log: log}
	if path == "" {
		return n, nil
	}
	if err := n.read(); err != nil {
		return nil, err
	}
	n.checked = time.Now()
	return n, nil
}

// CheckNodes reports what is wrong with a nodes file.
func CheckNodes(path string) error {
	_, err := NewNodes(path, nil)
	return err
}

// Open reports whether senders on loopback are believed without credentials.
func (n *Nodes) Open() bool { return n.path == "" }

// Authenticate returns the host name of the request's sender.
func (n *Nodes) Authenticate(r *http.Request) (host string, err error) {
	if n.path == "" {
		return claimed(r)
	}
	n.refresh()
	user, token, basic := r.BasicAuth()
	if !basic {
		var bearer bool
		if token, bearer = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); !bearer {
			return "", ErrNoCredentials
		}
	}
	n.mu.Lock()
	host, ok := n.byToken[sha256.Sum256([]byte(token))]
	n.mu.Unlock()
	if !ok || basic && subtle.ConstantTimeCompare([]byte(user), []byte(host)) != 1 {
		return "", ErrBadCredentials
	}
	return host, nil
}

func claimed(r *http.Request) (string, error) {
	address, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		address = r.RemoteAddr
	}
	ip := net.ParseIP(address)
	for _, h := range [...]string{"X-Forwarded-For", "Forwarded", "Via", "X-Real-Ip"} {
		if r.Header.Get(h) != "" {
			return "", ErrNotLoopback
		}
	}
	if ip == nil || !ip.IsLoopback() {
		return "", ErrNotLoopback
	}
	for _, h := range [...]string{"Origin", "Sec-Fetch-Site"} { // whose name may lead here, so that it can set all other headers
		if r.Header.Get(h) != "" {
			return "", ErrBrowser
		}
	}
	name := r.Header.Get(NodeHeader)
	if name == "" {
		name, _, _ = r.BasicAuth() // for senders that can not set headers
	}
	if name == "" {
		return "", ErrNoName
	}
	return name, nil
}

const recheck = time.Second

func (n *Nodes) refresh() {
	n.mu.Lock()
	due := time.Since(n.checked) >= recheck
	if due {
		n.checked = time.Now()
	}
	n.mu.Unlock()
	if !due {
		return
	}
	err := n.read()
	n.mu.Lock()
	was := n.failing
	n.failing = err != nil
	n.mu.Unlock()
	switch {
	case err != nil && !was:
		n.log.Error("nodes file can not be used; the last good version stays in force", "err", err)
	case err == nil && was:
		n.log.Info("nodes file can be used again", "file", n.path)
	}
}

const maxNodesFile = 4 << 20

// read takes the file in when it is another one than last time.
func (n *Nodes) read() error {
	f, err := os.Open(n.path)
	if err != nil {
		return fmt.Errorf("read nodes file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read nodes file: %w", err)
	}
	version := VersionOf(info)
	n.mu.Lock()
	same := n.byToken != nil && version == n.version && !n.failing
	n.mu.Unlock()
	if same {
		return nil
	}
	content, err := io.ReadAll(io.LimitReader(f, maxNodesFile+1))
	if err != nil {
		return fmt.Errorf("read nodes file: %w", err)
	}
	byToken, err := parseNodes(content)
	if err != nil {
		return fmt.Errorf("nodes file %s: %w", n.path, err)
	}
	n.mu.Lock()
	n.byToken, n.version = byToken, version
	n.mu.Unlock()
	return nil
}

const minToken = 16

// secret is what the file says of a node.
type secret struct {
	Token       string `yaml:"token"`
	TokenSHA256 string `yaml:"token_sha256"`
}

func parseNodes(content []byte) (map[[sha256.Size]byte]string, error) {
	if len(content) > maxNodesFile {
		return nil, fmt.Errorf("is larger than %d bytes", maxNodesFile)
	}
	var file struct {
		Nodes map[string]secret `yaml:"nodes"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		return nil, err
	}
	if len(file.Nodes) == 0 {
		return nil, errors.New("names no node; `gateway token NAME` prints the line for one")
	}
	byToken := make(map[[sha256.Size]byte]string, len(file.Nodes))
	for name, node := range file.Nodes {
		var hash [sha256.Size]byte
		switch {
		case !deployment.ValidName(name):
			return nil, fmt.Errorf("%q is no valid host name", name)
		case (node.Token == "") == (node.TokenSHA256 == ""):
			return nil, fmt.Errorf("node %s needs either token or token_sha256", name)
		case node.Token != "":
			if len(node.Token) < minToken {
				return nil, fmt.Errorf("node %s: a token has at least %d characters; `gateway token` makes one", name, minToken)
			}
			hash = sha256.Sum256([]byte(node.Token))
		default:
			sum, err := hex.DecodeString(node.TokenSHA256)
			if err != nil || len(sum) != len(hash) {
				return nil, fmt.Errorf("node %s: token_sha256 is not 64 hexadecimal digits", name)
			}
			copy(hash[:], sum)
		}
		if other, taken := byToken[hash]; taken {
			return nil, fmt.Errorf("nodes %s and %s share a token", name, other)
		}
		byToken[hash] = name
	}
	return byToken, nil
}
