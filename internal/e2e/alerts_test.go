package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"fanin/internal/e2e/rig"
)

// TestAlerts: both versions of Prometheus take the rules and what promtool
// tests of them; each alert is tested both ways, says what to do, and asks for
// metrics that there are.
func TestAlerts(t *testing.T) {
	t.Parallel()
	rig.Need(t, "promtool")
	root := rig.Root(t)
	rules, tests := filepath.Join(root, "stack/prometheus/rules/fanin.yml"), filepath.Join(root, "stack/prometheus/tests/fanin.yml")
	for _, promtool := range []*exec.Cmd{
		exec.Command("promtool", "check", "rules", rules), exec.Command("promtool", "test", "rules", tests),
		rig.Promtool(t, rig.Prometheus3, "check", "rules", rules), rig.Promtool(t, rig.Prometheus3, "test", "rules", tests),
	} {
		if out, err := promtool.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", promtool.Args, err, out)
		}
	}

	type rule struct {
		Alert, Expr         string
		Labels, Annotations map[string]string
	}
	var declared struct{ Groups []struct{ Rules []rule } }
	var tested struct {
		Tests []struct {
			Input []struct{ Series, Values string } `yaml:"input_series"`
			Rules []struct {
				Alert  string `yaml:"alertname"`
				Alerts []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	for file, into := range map[string]any{rules: &declared, tests: &tested} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(b, into); err != nil {
			t.Fatal(err)
		}
	}
	fires := map[string]int{}
	for _, one := range tested.Tests {
		for _, r := range one.Rules {
			fires[r.Alert] += len(r.Alerts)
		}
	}
	metrics, err := os.ReadFile(filepath.Join(root, "METRICS.md"))
	if err != nil {
		t.Fatal(err)
	}
	book, err := os.ReadFile(filepath.Join(root, "docs/alerts.md"))
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`\b(testbed|fanin)_[a-z0-9_]+`)
	n := 0
	for _, g := range declared.Groups {
		for _, r := range g.Rules {
			n++
			if fires[r.Alert] == 0 {
				t.Errorf("%s: no test has it fire", r.Alert)
			}
			if !strings.Contains(string(book), "\n## "+r.Alert+"\n") || r.Annotations["runbook"] != "docs/alerts.md#"+strings.ToLower(r.Alert) {
				t.Errorf("%s: docs/alerts.md has nothing on it, or its runbook is %q", r.Alert, r.Annotations["runbook"])
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || !strings.Contains("critical warning info", r.Labels["severity"]) {
				t.Errorf("%s: %v %v", r.Alert, r.Labels, r.Annotations)
			}
			for _, metric := range name.FindAllString(r.Expr, -1) {
				if !strings.Contains(string(metrics), "`"+metric+"`") {
					t.Errorf("%s asks for %s, which is not in METRICS.md", r.Alert, metric)
				}
			}
		}
	}
	if n < 12 {
		t.Errorf("%d alerts", n)
	}
}
