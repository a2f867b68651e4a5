package main

import (
	"net/http"
	"testing"
	"time"
)

func TestListAddress(t *testing.T) {
	for push, want := range map[string]string{
		"http://127.0.0.1:9370/api/v1/write":               "http://127.0.0.1:9370/api/v1/targets?node=n",
		"https://me:pw@gw.example/sub/path/api/v1/write?x": "https://me:pw@gw.example/sub/path/api/v1/targets?node=n",
		"http://127.0.0.1:9370/":                           "",
		"http://127.0.0.1:8428/api/v1/push":                "",
		"http://127.0.0.1:1234/receive/api/v1/write/":      "",
	} {
		if got, ok := listAddress(push, "n"); got != want || ok != (want != "") {
			t.Errorf("%s: got %q, %v, want %q", push, got, ok, want)
		}
	}
}

func TestListIsWanted(t *testing.T) {
	const gateway = "http://127.0.0.1:9370/api/v1/write"
	for _, c := range []struct {
		url   string
		flags exporterFlags
		want  bool
	}{
		{gateway, exporterFlags{on: true, list: time.Second}, true},
		{gateway, exporterFlags{list: time.Second}, false},
		{gateway, exporterFlags{on: true}, false},
		{"http://127.0.0.1:8428/", exporterFlags{on: true, list: time.Second}, false},
	} {
		o := &options{url: c.url, node: "n", sourceFlags: sourceFlags{exporter: c.flags}}
		if got := o.list(http.DefaultClient, nil) != nil; got != c.want {
			t.Errorf("%s %+v: got %v, want %v", c.url, c.flags, got, c.want)
		}
	}
}
