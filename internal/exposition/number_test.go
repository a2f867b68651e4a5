package exposition

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestValues(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", -1: "-1", 1e6: "1000000", 123456789: "123456789", 1 << 53: "9.007199254740992e+15",
		0.5: "0.5", -0.25: "-0.25", 0.1: "0.1", 12.345678: "12.345678", 12.3456789: "12.3456789", 1.000000001: "1.000000001",
		1e-9: "1e-09", 0.001: "0.001", 1.5e300: "1.5e+300", math.Pi: "3.141592653589793", 0.30000000000000004: "0.30000000000000004",
		math.Inf(1): "+Inf", math.Inf(-1): "-Inf",
	} {
		if got := string(appendValue(nil, v)); got != want {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
	if got := string(appendValue(nil, math.NaN())); got != "NaN" {
		t.Errorf("got %s, want NaN", got)
	}
	if got := string(appendValue(nil, math.Copysign(0, -1))); got != "-0" {
		t.Errorf("got %s, want -0", got)
	}
}

// TestValuesReadBack: each reads back as it was, and is no longer than the
// shortest by more than an exponent saves.
func TestValuesReadBack(t *testing.T) {
	decimals := rapid.Custom(func(t *rapid.T) float64 {
		return float64(rapid.Int64().Draw(t, "digits")%1e15) / math.Pow10(rapid.IntRange(0, 12).Draw(t, "decimals"))
	})
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.OneOf(rapid.Float64(), decimals).Draw(t, "value")
		text := string(appendValue(nil, v))
		got, err := strconv.ParseFloat(text, 64)
		if err != nil || math.Float64bits(got) != math.Float64bits(v) {
			t.Fatalf("%x is written as %s and reads back as %x, %v", math.Float64bits(v), text, math.Float64bits(got), err)
		}
		if shortest := strconv.FormatFloat(v, 'f', -1, 64); !strings.Contains(text, "e") && text != shortest {
			t.Fatalf("got %s, want %s", text, shortest)
		}
	})
}

func TestClock(t *testing.T) {
	var c clock
	for _, at := range []int64{0, 7, 999, 1000, 1_700_000_000_000, 1_700_000_000_123, 1_700_000_001_000, 1_700_000_000_009} {
		if got := string(c.append(nil, at, false)); got != fmt.Sprint(at) {
			t.Errorf("got %s, want %d", got, at)
		}
		if got, want := string(c.append(nil, at, true)), fmt.Sprintf("%d.%03d", at/1000, at%1000); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
