// Package boards makes Grafana dashboards: the guests of all types, one guest
// in depth, the programs inside guests, and the system about itself.
// `go test ./stack/grafana/boards -update` writes them as JSON into
// stack/grafana/dashboards, where Grafana is provisioned with them. The two
// dashboards that TestbedOS' page embeds (hosts.json, guests.json) are its own
// and are kept by hand.
package boards

import (
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// board is one dashboard.
type board struct {
	file, uid, title, text string
	variables              []variable
	rows                   []row
}

// variable is a choice on top of a dashboard: all values of a label.
type variable struct {
	name, label, query string
	many               bool // several at once, or all
}

type row struct {
	title  string
	panels []panel
}

// panel is a chart, or a single number (stat). Its unit is one of Grafana's.
type panel struct {
	title, text, unit string
	stat              bool
	queries           []query
	warn, bad         float64 // where its colour changes; 0: it does not
	most              float64 // the end of its axis; 0: as it comes
}

// query is in PromQL; legend in Grafana's form.
type query struct{ expr, legend string }

// source is the provisioned data source, which TestbedOS has named.
func source() common.DataSourceRef {
	return common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("PBFA97CFB590B2093")}
}

// build makes the dashboard. Its panels stand in rows of three, small numbers
// in rows of six.
func (b board) build() (dashboard.Dashboard, error) { //nolint:staticcheck // the second version is none that Grafana reads from files
	//nolint:staticcheck // as above
	out := dashboard.NewDashboardBuilder(b.title).Uid(b.uid).Description(b.text).Tags([]string{"testbed"}).
		Readonly().Timezone("browser").Time("now-30m", "now").Refresh("5s").Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Link(dashboard.NewDashboardLinkBuilder("Testbed").Type(dashboard.DashboardLinkTypeDashboards).Tags([]string{"testbed"}).KeepTime(true).IncludeVars(true))
	for _, v := range b.variables {
		// Grafana itself quotes what several chosen values have of a pattern.
		q := dashboard.NewQueryVariableBuilder(v.name).Label(v.label).Datasource(source()).
			Query(dashboard.StringOrMap{Map: map[string]any{"qryType": 1, "query": v.query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}}).
			Definition(v.query).Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortAlphabeticalAsc)
		if v.many {
			q = q.Multi(true).IncludeAll(true).Current(dashboard.VariableOption{
				Selected: cog.ToPtr(true), Text: dashboard.StringOrArrayOfString{String: cog.ToPtr("All")}, Value: dashboard.StringOrArrayOfString{String: cog.ToPtr("$__all")},
			})
		}
		out = out.WithVariable(q)
	}
	marks := `testbed_run_mark_timestamp_seconds * 1000`
	for _, v := range b.variables {
		if v.name == "project" {
			marks = `testbed_run_mark_timestamp_seconds{project=~"$project"} * 1000`
		}
	}
	out = out.Annotation(dashboard.NewAnnotationQueryBuilder().Name("Marks of runs").Datasource(source()).Enable(true).IconColor("blue").
		Expr(marks).UseValueForTime(true).TitleFormat("{{mark}}").TextFormat("{{project}}").Step("10s"))
	id := uint32(1)
	for i, r := range b.rows {
		out = out.WithRow(dashboard.NewRowBuilder(r.title).Id(uint32(100 + i)))
		for _, p := range r.panels {
			out = out.WithPanel(p.build(id))
			id++
		}
	}
	return out.Build()
}

func (p panel) build(id uint32) cog.Builder[dashboard.Panel] {
	limits := dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute)
	steps := []dashboard.Threshold{{Color: "green"}}
	if p.warn != 0 {
		steps = append(steps, dashboard.Threshold{Value: cog.ToPtr(p.warn), Color: "orange"})
	}
	if p.bad != 0 {
		steps = append(steps, dashboard.Threshold{Value: cog.ToPtr(p.bad), Color: "red"})
	}
	limits.Steps(steps)
	if p.stat {
		out := stat.NewPanelBuilder().Id(id).Title(p.title).Description(p.text).Unit(p.unit).Datasource(source()).Thresholds(limits).
			Span(4).Height(4).NoValue("–").GraphMode(common.BigValueGraphModeArea).
			ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"}))
		for i, q := range p.queries {
			out = out.WithTarget(q.build(i))
		}
		return out
	}
	out := timeseries.NewPanelBuilder().Id(id).Title(p.title).Description(p.text).Unit(p.unit).Datasource(source()).Thresholds(limits).
		Span(8).Height(8).NoValue("no samples").Min(0).LineWidth(1).FillOpacity(8).ShowPoints(common.VisibilityModeAuto).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending)).
		Legend(common.NewVizLegendOptionsBuilder().DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom).ShowLegend(true))
	if p.warn != 0 || p.bad != 0 {
		out = out.ThresholdsStyle(common.NewGraphThresholdsStyleConfigBuilder().Mode(common.GraphThresholdsStyleModeDashed))
	}
	if p.most != 0 {
		out = out.Max(p.most)
	}
	for i, q := range p.queries {
		out = out.WithTarget(q.build(i))
	}
	return out
}

func (q query) build(i int) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().RefId(string(rune('A' + i))).Expr(q.expr).LegendFormat(q.legend).Datasource(source()).Range()
}

// top bounds a chart of many lines: a legend of thousands takes Grafana half a
// minute to draw.
func top(expr string) string { return fmt.Sprintf("topk(20, %s)", expr) }
