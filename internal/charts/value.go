package charts

import (
	"math"
	"strconv"
)

// append writes five digits: no screen shows more.
func (v Value) append(b []byte) []byte {
	f := float64(v)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(b, "null"...)
	}
	if f == math.Trunc(f) && math.Abs(f) < 1e5 {
		return strconv.AppendInt(b, int64(f), 10)
	}
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(f, 'e', 4, 64), 64)
	if err != nil {
		rounded = f
	}
	return strconv.AppendFloat(b, rounded, 'g', -1, 64)
}
