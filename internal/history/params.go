package history

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
)

// earliest and latest stand for no bound. Prometheus' own client writes such
// times with years of more than four digits.
var (
	earliest = time.UnixMilli(math.MinInt64 / 2).UTC()
	latest   = time.UnixMilli(math.MaxInt64 / 2).UTC()
)

// apiError is an error that is answered with a code of its own.
type apiError struct {
	code int
	kind string
	err  error
}

// Error implements error.
func (e *apiError) Error() string { return e.err.Error() }

func badData(err error) error { return &apiError{http.StatusBadRequest, "bad_data", err} }

func invalid(parameter string, err error) error {
	return badData(fmt.Errorf("invalid parameter %q: %w", parameter, err))
}

// statusClosed is what is noted when the client has gone.
const statusClosed = 499

// failureOf says how Prometheus answers with an error: 400 for a bad request,
// 422 for a query that can not be evaluated, 503 for one that takes too long
// and while there is no database.
func failureOf(err error) *apiError {
	var known *apiError
	var canceled promql.ErrQueryCanceled
	var timeout promql.ErrQueryTimeout
	var internal promql.ErrStorage
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, errClosed):
		return &apiError{http.StatusServiceUnavailable, "unavailable", err}
	case errors.As(err, &timeout), errors.Is(err, context.DeadlineExceeded):
		return &apiError{http.StatusServiceUnavailable, "timeout", err}
	case errors.As(err, &canceled), errors.Is(err, context.Canceled):
		return &apiError{statusClosed, "canceled", err}
	case errors.As(err, &internal):
		return &apiError{http.StatusInternalServerError, "internal", err}
	default:
		return &apiError{http.StatusUnprocessableEntity, "execution", err}
	}
}

func (r *request) timeOf(name string) (time.Time, error) {
	if r.FormValue(name) == "" {
		return time.Time{}, invalid(name, errors.New("it is missing"))
	}
	return r.time(name, time.Time{})
}

// time reads seconds since 1970 or RFC 3339.
func (r *request) time(name string, otherwise time.Time) (time.Time, error) {
	text := r.FormValue(name)
	if text == "" {
		return otherwise, nil
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		ms := math.Round(seconds * 1000)
		switch {
		case math.IsNaN(ms):
			return time.Time{}, invalid(name, errors.New("NaN is no time"))
		case ms <= float64(earliest.UnixMilli()):
			return earliest, nil
		case ms >= float64(latest.UnixMilli()):
			return latest, nil
		}
		return time.UnixMilli(int64(ms)).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		if len(text) > 0 && text[0] == '-' {
			return earliest, nilIfYear(name, text[1:])
		}
		return latest, nilIfYear(name, text)
	}
	return t, nil
}

// nilIfYear accepts RFC 3339 with a year of more than four digits.
func nilIfYear(name, text string) error {
	digits := 0
	for digits < len(text) && text[digits] >= '0' && text[digits] <= '9' {
		digits++
	}
	if digits > 4 && digits < 12 {
		if _, err := time.Parse(time.RFC3339Nano, "2000"+text[digits:]); err == nil {
			return nil
		}
	}
	return invalid(name, fmt.Errorf("%q is no time: seconds since 1970 or RFC 3339", text))
}

// duration reads seconds or a duration such as 5m.
func duration(text string) (time.Duration, error) {
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		ns := seconds * float64(time.Second)
		if !(math.Abs(ns) < math.MaxInt64) {
			return 0, fmt.Errorf("%q is too long a duration", text)
		}
		return time.Duration(ns), nil
	}
	d, err := model.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration: seconds, or such as 30s or 5m", text)
	}
	return time.Duration(d), nil
}

// limit is how many results are wanted; 0: all.
func (r *request) limit() (int, error) {
	text := r.FormValue("limit")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 0 {
		return 0, invalid("limit", fmt.Errorf("%q is no number of results", text))
	}
	return int(n), nil
}

func (r *request) options() (promql.QueryOpts, error) {
	var lookback time.Duration
	if text := r.FormValue("lookback_delta"); text != "" {
		var err error
		if lookback, err = duration(text); err != nil {
			return nil, invalid("lookback_delta", err)
		}
	}
	return promql.NewPrometheusQueryOpts(false, lookback), nil
}

// matchers reads match[]; each of them must ask for something.
func (r *request) matchers(h *History) ([][]*labels.Matcher, error) {
	long := 0
	for _, text := range r.Form["match[]"] {
		long += len(text)
	}
	if long > maxQuery {
		return nil, invalid("match[]", fmt.Errorf("all of them are longer than %d bytes", maxQuery))
	}
	if err := boundedPatterns(r.Form["match[]"]...); err != nil {
		return nil, invalid("match[]", err)
	}
	sets, err := h.parser.ParseMetricSelectors(r.Form["match[]"])
	if err != nil {
		return nil, invalid("match[]", err)
	}
	for _, set := range sets {
		asks := false
		for _, m := range set {
			asks = asks || !m.Matches("")
		}
		if !asks {
			return nil, invalid("match[]", errors.New("match[] must contain at least one non-empty matcher"))
		}
	}
	return sets, nil
}
