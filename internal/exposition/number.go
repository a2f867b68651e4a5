package exposition

import (
	"math"
	"strconv"
)

// appendValue writes a value in a form that reads back as the same bits, but
// for the payload of a NaN.
//
// Most values are whole, or have a few decimals, because they were counted in
// some small unit; those are written without searching for the shortest
// digits. That is exact: i/1000000 in floating point is the number nearest to
// that fraction, and so is what any reader makes of its decimals.
func appendValue(b []byte, v float64) []byte {
	const whole = 1 << 53 // integers up to here are exact
	if i := int64(v); float64(i) == v && i > -whole && i < whole && (i != 0 || !math.Signbit(v)) {
		return strconv.AppendInt(b, i, 10)
	}
	if a := math.Abs(v); a < whole/1e6 && a >= 1e-3 {
		if i := int64(a*1e6 + 0.5); float64(i)/1e6 == a {
			return appendDecimal(b, v < 0, uint64(i), 6)
		}
		if a < whole/1e9 {
			if i := int64(a*1e9 + 0.5); float64(i)/1e9 == a {
				return appendDecimal(b, v < 0, uint64(i), 9)
			}
		}
	}
	switch {
	case math.IsNaN(v):
		return append(b, "NaN"...)
	case math.IsInf(v, 1):
		return append(b, "+Inf"...)
	case math.IsInf(v, -1):
		return append(b, "-Inf"...)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}

// appendDecimal writes i with so many decimals, those at the end that are
// nothing left out.
func appendDecimal(b []byte, negative bool, i uint64, decimals int) []byte {
	if negative {
		b = append(b, '-')
	}
	unit := uint64(1e6)
	if decimals == 9 {
		unit = 1e9
	}
	b = strconv.AppendUint(b, i/unit, 10)
	b = append(b, '.')
	rest := i % unit
	var digits [9]byte
	for at := decimals - 1; at >= 0; at-- {
		digits[at] = byte('0' + rest%10)
		rest /= 10
	}
	end := decimals
	for digits[end-1] == '0' {
		end--
	}
	return append(b, digits[:end]...)
}

// clock writes timestamps. Those of a page are of few seconds, whose digits it
// keeps.
type clock struct {
	second int64
	digits []byte
}

// append writes t, milliseconds, as seconds, with the dot between them and the
// milliseconds or without. It is not negative: the parsers of the text format
// would refuse the page.
func (c *clock) append(b []byte, t int64, dot bool) []byte {
	second, ms := t/1000, int(t%1000)
	if second == 0 && !dot {
		return strconv.AppendInt(b, t, 10)
	}
	if second != c.second || len(c.digits) == 0 {
		c.second, c.digits = second, strconv.AppendInt(c.digits[:0], second, 10)
	}
	b = append(b, c.digits...)
	if dot {
		b = append(b, '.')
	}
	return append(b, byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10))
}
