package push

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gogo/protobuf/proto"
	"github.com/golang/snappy"
	"github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/prompb"

	"fanin/internal/e2e/rig"
)

// TestStockPrometheus delivers to a Prometheus that knows nothing of us and
// asks it for every value.
func TestStockPrometheus(t *testing.T) {
	rig.Need(t, "prometheus")
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte("global: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := fmt.Sprintf("http://127.0.0.1:%d", rig.FreePort(t))
	listen := base[len("http://"):]

	s := newSpool(t)
	const records = 20
	begin := time.Now().Add(-records * time.Second).Truncate(time.Second)
	for i := range records {
		message, err := proto.Marshal(&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
			Labels:  []prompb.Label{{Name: "__name__", Value: "test_pushed"}, {Name: "guest", Value: "signal-web"}},
			Samples: []prompb.Sample{{Timestamp: begin.Add(time.Duration(i) * time.Second).UnixMilli(), Value: float64(i)}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Append(snappy.Encode(nil, message), 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Append([]byte("not snappy at all"), 7); err != nil {
		t.Fatal(err)
	}
	p := &Pusher{URL: base + "/api/v1/write", Client: client(t, config.HTTPClientConfig{}), Spool: s, MaxBackoff: 200 * time.Millisecond, Node: "main-host", Interval: time.Second}
	end := start(t, p) // before the receiver is up
	rig.Start(t, "prometheus", "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+listen, "--web.enable-remote-write-receiver")
	rig.Eventually(t, 60*time.Second, func() error {
		if l := s.Ledger(); l.Pending > 0 {
			return fmt.Errorf("%d pending, trouble: %w", l.Pending, p.Trouble())
		}
		return nil
	})
	s.Finish()
	end()
	want(t, s, "delivered 20 pending 0 dropped rejected 7")

	query := url.Values{"query": {"test_pushed[1h]"}, "time": {fmt.Sprint(begin.Add(records * time.Second).Unix())}}
	response, err := http.Get(base + "/api/v1/query?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer response.Body.Close()
	var got struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if len(got.Data.Result) != 1 || got.Data.Result[0].Metric["guest"] != "signal-web" || len(got.Data.Result[0].Values) != records {
		t.Fatalf("Prometheus has %+v, want one series of signal-web with %d values", got.Data.Result, records)
	}
	for i, v := range got.Data.Result[0].Values {
		if v[0] != float64(begin.Unix()+int64(i)) || v[1] != fmt.Sprint(i) {
			t.Errorf("value %d: got %v, want %d at %d", i, v, i, begin.Unix()+int64(i))
		}
	}
}
