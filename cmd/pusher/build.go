package main

import (
	"runtime"

	"github.com/prometheus/common/version"
	"golang.org/x/sys/unix"

	"fanin/internal/sample"
)

var buildInfo = sample.NewGauge("fanin_build_info", "", "Always 1; the labels carry the versions of the host's pusher, of its Go and of the host's kernel.")

// buildSeries is the series of this build on this kernel.
func buildSeries() *sample.Series {
	labels := []sample.Label{
		{Name: "version", Value: version.Version},
		{Name: "revision", Value: version.GetRevision()},
		{Name: "goversion", Value: runtime.Version()},
	}
	var kernel unix.Utsname
	if unix.Uname(&kernel) == nil {
		labels = append(labels, sample.Label{Name: "kernel", Value: unix.ByteSliceToString(kernel.Release[:])})
	}
	return sample.New(buildInfo, labels...)
}
