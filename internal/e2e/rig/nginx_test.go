package rig_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"fanin/internal/e2e/rig"
)

const plainNginx = `
worker_processes 1;
pid ${DIR}/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path ${DIR}/body;
  proxy_temp_path ${DIR}/proxy;
  fastcgi_temp_path ${DIR}/fastcgi;
  uwsgi_temp_path ${DIR}/uwsgi;
  scgi_temp_path ${DIR}/scgi;
  server { listen ${LISTEN}; location / { return 200 "hello\n"; } }
}
`

func TestNginx(t *testing.T) {
	n := rig.Nginx(t, plainNginx)
	resp, err := http.Get(n.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "hello\n" {
		t.Errorf("got %q, %v, want hello", body, err)
	}
	if out, err := rig.NginxCheck(t, plainNginx); err != nil {
		t.Errorf("nginx -t: %v\n%s", err, out)
	}
	if out, err := rig.NginxCheck(t, strings.Replace(plainNginx, "events {}", "events {", 1)); err == nil {
		t.Errorf("nginx -t on a torn configuration: got no error\n%s", out)
	}
}
