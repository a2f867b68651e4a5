package deployment

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// document walks through one JSON text by its exact keys. encoding/json's
// struct decoding matches keys without regard to case and lets a second key
// win over the first in silence, so it is not used for anything that has a
// name.
type document struct {
	data []byte
	dec  *json.Decoder

	// What place has counted: lines before an offset, and where the last begins.
	placed, begins int
	lines          int
}

// ignored takes any value and keeps nothing of it.
type ignored struct{}

// UnmarshalJSON is part of json.Unmarshaler.
func (*ignored) UnmarshalJSON([]byte) error { return nil }

// newDocument checks the limits and the syntax of the whole text first.
func newDocument(data []byte) (*document, *Error) {
	d := &document{data: data}
	if len(data) > MaxFileBytes {
		return nil, &Error{Reason: ReasonTooLarge, Detail: fmt.Sprintf("more than %d bytes", MaxFileBytes)}
	}
	if at, ok := tooDeep(data); ok {
		return nil, d.fail(int64(at), ReasonTooDeep, fmt.Sprintf("nested deeper than %d levels", MaxDepth))
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, &Error{Reason: ReasonTorn, Detail: "the file is empty"}
	}
	var whole ignored
	if err := json.Unmarshal(data, &whole); err != nil {
		at := int64(len(data))
		if e := (*json.SyntaxError)(nil); errors.As(err, &e) {
			at = max(e.Offset-1, 0)
		}
		return nil, d.fail(at, ReasonTorn, err.Error())
	}
	d.dec = json.NewDecoder(bytes.NewReader(data))
	return d, nil
}

// tooDeep returns where brackets nest deeper than MaxDepth.
func tooDeep(data []byte) (int, bool) {
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > MaxDepth {
				return i, true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return 0, false
}

// offset is where the next token begins.
func (d *document) offset() int64 {
	at := d.dec.InputOffset()
	for at < int64(len(d.data)) && strings.IndexByte(" \t\r\n:,", d.data[at]) >= 0 {
		at++
	}
	return at
}

// next is the first byte of the next token, 0 at the end.
func (d *document) next() byte {
	if at := d.offset(); at < int64(len(d.data)) {
		return d.data[at]
	}
	return 0
}

// place is the line and the column of an offset, each from 1. It goes on from
// the offset before, as a file may have thousands of flaws.
func (d *document) place(at int64) (line, column int) {
	to := int(min(at, int64(len(d.data))))
	if to < d.placed {
		d.placed, d.begins, d.lines = 0, 0, 0
	}
	between := d.data[d.placed:to]
	d.lines += bytes.Count(between, []byte("\n"))
	if last := bytes.LastIndexByte(between, '\n'); last >= 0 {
		d.begins = d.placed + last + 1
	}
	d.placed = to
	return 1 + d.lines, 1 + to - d.begins
}

func (d *document) fail(at int64, reason, detail string) *Error {
	line, column := d.place(at)
	return &Error{Reason: reason, Line: line, Column: column, Offset: at, Detail: detail}
}

// object calls each with every key; each must consume the value.
func (d *document) object(each func(key string) *Error) *Error {
	if d.next() != '{' {
		return d.fail(d.offset(), ReasonMalformed, "an object was expected here")
	}
	if _, err := d.token(); err != nil {
		return err
	}
	seen := map[string]struct{}{}
	for d.dec.More() {
		at := d.offset()
		t, err := d.token()
		if err != nil {
			return err
		}
		key, _ := t.(string)
		if _, ok := seen[key]; ok {
			return d.fail(at, ReasonDuplicateKey, "the key "+quoted(key)+" stands twice in one object")
		}
		if seen[key] = struct{}{}; len(seen) > 2*MaxGuests {
			return d.fail(at, ReasonMalformed, "an object with too many keys")
		}
		if err := each(key); err != nil {
			return err
		}
	}
	_, err := d.token()
	return err
}

// array calls each before every element; each must consume it.
func (d *document) array(each func() *Error) *Error {
	if _, err := d.token(); err != nil {
		return err
	}
	for d.dec.More() {
		if err := each(); err != nil {
			return err
		}
	}
	_, err := d.token()
	return err
}

func (d *document) token() (json.Token, *Error) {
	t, err := d.dec.Token()
	if err != nil {
		return nil, d.fail(d.dec.InputOffset(), ReasonTorn, err.Error())
	}
	return t, nil
}

func (d *document) skip() *Error {
	var v ignored
	if err := d.dec.Decode(&v); err != nil {
		return d.fail(d.dec.InputOffset(), ReasonTorn, err.Error())
	}
	return nil
}

// text is a string.
func (d *document) text() (string, *Error) {
	at := d.offset()
	if d.next() != '"' {
		return "", d.fail(at, ReasonMalformed, "a string was expected here")
	}
	t, err := d.token()
	s, _ := t.(string)
	return s, err
}

// optional is a string or null; ok is false for anything else, which is
// skipped.
func (d *document) optional() (s string, ok bool, err *Error) {
	switch d.next() {
	case '"':
		s, err = d.text()
		return s, true, err
	case 'n':
		return "", true, d.skip()
	}
	return "", false, d.skip()
}

// variant is the name of a state: a string, or the key of an object, which is
// never "up".
func (d *document) variant() (string, *Error) {
	name := ""
	var err *Error
	switch d.next() {
	case '"':
		name, err = d.text()
	case '{':
		err = d.object(func(key string) *Error {
			if name = key; key == "up" {
				name = "unknown"
			}
			return d.skip()
		})
	default:
		err = d.skip()
	}
	if name == "" || len(name) > 32 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") != "" {
		name = "unknown"
	}
	return name, err
}

// quoted makes any text safe for a terminal and short.
func quoted(s string) string {
	if len(s) > 64 {
		s = s[:64] + "..."
	}
	q := strconv.QuoteToASCII(s)
	if len(q) > 80 {
		q = q[:77] + `..."`
	}
	return q
}
