package fleet

import (
	"bytes"
	"fmt"
	"io"

	"github.com/golang/snappy"
)

const maxBody = 8 << 20

// Decompressor reads bodies into memory and decompresses them, which is the least
// that a receiver can do. It keeps its buffers and is used by one goroutine at a
// time.
type Decompressor struct {
	packed bytes.Buffer
	raw    []byte
}

// Read takes one body of at most 8 MiB; what was in it is forgotten.
func (d *Decompressor) Read(body io.Reader) error {
	d.packed.Reset()
	if _, err := d.packed.ReadFrom(io.LimitReader(body, maxBody)); err != nil {
		return err
	}
	size, err := snappy.DecodedLen(d.packed.Bytes())
	if err != nil {
		return err
	}
	if size > maxBody {
		return fmt.Errorf("%d bytes after decompression, at most %d are taken", size, maxBody)
	}
	if size > cap(d.raw) {
		d.raw = make([]byte, size)
	}
	_, err = snappy.Decode(d.raw[:cap(d.raw)], d.packed.Bytes())
	return err
}
