package runs

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Whatever a record on the disk says, it is refused or makes series of which no
// two are alike, and reads back as it was.
func FuzzRecord(f *testing.F) {
	id := strings.Repeat("a", idLength)
	f.Add(`{"id":"` + id + `","project":"lab","name":"n","started":1764200000.123,"ended":1764200001,"marks":[{"at":1764200000.5,"text":"stop"},{"at":1764200000.5,"text":"stop"}]}`)
	f.Add(`{"id":"` + id + `","project":"a\"b","name":"\\","started":1e10,"ended":null,"marks":[{"at":1e10,"text":"x (2)"}]}`)
	f.Fuzz(func(t *testing.T, content string) {
		run := &Run{}
		if json.Unmarshal([]byte(content), run) != nil || run.check(id) != nil {
			return
		}
		seen := map[string]bool{}
		for _, p := range seriesOf(run).marks {
			if text := p.Series.Text(); seen[text] || strings.Contains(text, "\n") {
				t.Fatalf("%q makes %s twice, or in two lines", content, text)
			} else {
				seen[text] = true
			}
		}
		text, err := json.Marshal(run)
		if err != nil {
			t.Fatal(err)
		}
		again := &Run{}
		if err := json.Unmarshal(text, again); err != nil || again.check(id) != nil || again.Started != run.Started {
			t.Fatalf("%s is written as %s: %v", content, text, err)
		}
	})
}

// Whatever the body of a mark is, the answer is 200 or says what is wrong.
func FuzzMark(f *testing.F) {
	records := &Records{slots: make(chan struct{}, maxWaiting)}
	records.counts.init()
	mux := http.NewServeMux()
	(&API{Records: records, Writers: All}).Mount(mux)
	for _, body := range []string{`{"text":"a"}`, `{"text":"a","at":1e3}`, `{"text":"\ud800"}`, `{"at":"NaN"}`, "", "{}{}", "\xff", `{"TEXT":"a"}`} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest(http.MethodPost, "/api/v1/runs/none/marks", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		var answer struct{ Error string }
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Error == "" || w.Code < 400 || w.Code >= 500 {
			t.Fatalf("%q is answered with %d %s", body, w.Code, w.Body)
		}
	})
}

// A state file of any content stays JSON.
func FuzzCredentials(f *testing.F) {
	f.Add(hostileState)
	f.Add(`[{"password":1,"environment":"A","x":"://a:b@c"},["--token","x"]]`)
	f.Fuzz(func(t *testing.T, state string) {
		if len(state) > 4096 {
			return
		}
		once, err := withoutCredentials([]byte(state))
		if err != nil {
			return
		}
		if !json.Valid(once) {
			t.Fatalf("%q becomes %s", state, once)
		}
	})
}
