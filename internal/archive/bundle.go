package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// bundle is a compressed tar on its way to a client. A tar says how long a file
// is ahead of it, so a file is compressed to the disk first; as a gzip file may
// be one behind another (RFC 1952, section 2.2), it leaves as it is there.
type bundle struct {
	ctx     context.Context
	w       http.ResponseWriter
	control *http.ResponseController
	sent    prometheus.Counter
	folder  string // for parts
	reserve int64  // bytes of its disk that stay free
	prefix  string
	at      time.Time // of all files
}

// Write sends a piece.
func (b *bundle) Write(piece []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if err := b.control.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	n, err := b.w.Write(piece)
	b.sent.Add(float64(n))
	return n, err
}

// header is what comes ahead of a file of so many bytes.
func (b *bundle) header(name string, size int64) ([]byte, error) {
	var header bytes.Buffer
	err := tar.NewWriter(&header).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: b.prefix + name, Mode: 0o644, Size: size, ModTime: b.at,
	})
	return header.Bytes(), err
}

// padding fills the last block of a file.
func padding(size int64) []byte { return make([]byte, (512-size%512)%512) }

func (b *bundle) member(pieces ...[]byte) error {
	zip, _ := gzip.NewWriterLevel(b, gzip.BestSpeed) // the level is valid
	for _, piece := range pieces {
		if _, err := zip.Write(piece); err != nil {
			return err
		}
	}
	return zip.Close()
}

// add sends a file.
func (b *bundle) add(name string, content []byte) error {
	header, err := b.header(name, int64(len(content)))
	if err != nil {
		return err
	}
	return b.member(header, content, padding(int64(len(content))))
}

// addPart sends a file that is on the disk.
func (b *bundle) addPart(name string, p *part) error {
	if err := p.finish(); err != nil {
		return err
	}
	header, err := b.header(name, p.size)
	if err != nil {
		return err
	}
	if err := b.member(header); err != nil {
		return err
	}
	buffer := make([]byte, 256<<10)
	if _, err := io.CopyBuffer(struct{ io.Writer }{b}, struct{ io.Reader }{p.file}, buffer); err != nil {
		return err
	}
	return nil
}

// end sends the two empty blocks that end a tar.
func (b *bundle) end() error { return b.member(make([]byte, 1024)) }

// part is a file of a bundle, compressed on the disk. The file has no name any
// more: whatever ends the gateway ends it too.
type part struct {
	b       *bundle
	file    *os.File
	out     *bufio.Writer
	zip     *gzip.Writer
	size    int64 // uncompressed
	checked int64 // the size at which the disk was looked at
	done    bool
}

func (b *bundle) part() (*part, error) {
	file, err := os.CreateTemp(b.folder, "*.tmp")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	p := &part{b: b, file: file, out: bufio.NewWriterSize(file, 64<<10)}
	p.zip, _ = gzip.NewWriterLevel(p.out, gzip.BestSpeed) // the level is valid
	return p, nil
}

// room says when the disk has too little left.
func (b *bundle) room() error {
	var disk unix.Statfs_t
	if err := unix.Statfs(b.folder, &disk); err != nil {
		return &os.PathError{Op: "statfs", Path: b.folder, Err: err}
	}
	if free := int64(disk.Bavail) * disk.Bsize; free < b.reserve {
		return fmt.Errorf("%s: %d MiB of the disk are free, and an archive leaves %d MiB", b.folder, free>>20, b.reserve>>20)
	}
	return nil
}

// checkEvery is how much is written between two looks at the disk.
const checkEvery = 16 << 20

// Write adds to the file.
func (p *part) Write(piece []byte) (int, error) {
	if err := p.b.ctx.Err(); err != nil {
		return 0, err
	}
	if p.size-p.checked >= checkEvery {
		p.checked = p.size
		if err := p.b.room(); err != nil {
			return 0, err
		}
	}
	n, err := p.zip.Write(piece)
	p.size += int64(n)
	return n, err
}

func (p *part) finish() error {
	if p.done {
		return nil
	}
	p.done = true
	if _, err := p.zip.Write(padding(p.size)); err != nil {
		return err
	}
	if err := p.zip.Close(); err != nil {
		return err
	}
	if err := p.out.Flush(); err != nil {
		return err
	}
	_, err := p.file.Seek(0, io.SeekStart)
	return err
}

func (p *part) close() { p.file.Close() }
