package host

import "bytes"

// line cuts the first line off.
func line(b []byte) (first, rest []byte) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// word cuts the first word off; it is empty when there is none.
func word(b []byte) (first, rest []byte) {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for i, c := range b {
		if c == ' ' || c == '\t' {
			return b[:i], b[i:]
		}
	}
	return b, nil
}

// whole reads a number without sign.
func whole(b []byte) (n uint64, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' || n > (1<<64-1)/10 {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, len(b) > 0
}

// decimal reads a number with some decimals, as 0.52.
func decimal(b []byte) (v float64, ok bool) {
	before, after, _ := bytes.Cut(b, []byte("."))
	n, ok := whole(before)
	unit := 1.0
	for _, c := range after {
		if c < '0' || c > '9' || unit >= 1e9 {
			return 0, false
		}
		n, unit = n*10+uint64(c-'0'), unit*10
	}
	return float64(n) / unit, ok
}

// readNumbers reads up to len(into) numbers from the beginning of b and returns how
// many there were; ok is false when one of them is none.
func readNumbers(b []byte, into []uint64) (n int, ok bool) {
	for n < len(into) {
		var w []byte
		if w, b = word(b); len(w) == 0 {
			return n, true
		}
		if into[n], ok = whole(w); !ok {
			return n, false
		}
		n++
	}
	return n, true
}
