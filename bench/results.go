package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

var echo = os.Stderr // progress; the table goes to standard output

// results are all measures, by shape and runner.
type results struct {
	shapes  []shape
	runs    map[string]map[string][]measure
	big     measure
	latency latency
	fills   []fill
	views   viewResults
	keys    []map[string]viewRun // rounds
}

func (r *results) add(s shape, runner string, m measure) {
	if r.runs == nil {
		r.runs = map[string]map[string][]measure{}
	}
	if r.runs[s.name] == nil {
		r.shapes = append(r.shapes, s)
		r.runs[s.name] = map[string][]measure{}
	}
	r.runs[s.name][runner] = append(r.runs[s.name][runner], m)
}

// median takes the median of one figure over the rounds.
func median[T int64 | float64 | time.Duration](ms []measure, figure func(measure) T) T {
	values := make([]T, len(ms))
	for i, m := range ms {
		values[i] = figure(m)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// print writes a table in Markdown and the ratios that count.
func (r *results) print(w io.Writer) {
	if len(r.shapes) > 0 {
		r.printShapes(w)
	}
	fmt.Fprintf(w, "\n| target | floor | goal | measured |\n| --- | --- | --- | --- |\n")
	r.printRatios(w)
}

func (r *results) printShapes(w io.Writer) {
	fmt.Fprintln(w, "| shape | runner | k units/s | client CPU s per 1M | walsender CPU s per 1M | Redis CPU s per 1M | peak RSS MB |")
	fmt.Fprintln(w, "| --- | --- | --- | --- | --- | --- | --- |")
	for _, s := range r.shapes {
		for _, name := range []string{limitName, ordinaryName, walrillName, rulesName} {
			ms := r.runs[s.name][name]
			fmt.Fprintf(w, "| %s | %s | %.0f | %.1f | %.1f | %.1f | %.1f |\n", s.name, name,
				median(ms, measure.rate)/1000,
				median(ms, func(m measure) float64 { return m.perMillion(m.client) }),
				median(ms, func(m measure) float64 { return m.perMillion(m.walsender) }),
				median(ms, func(m measure) float64 { return m.perMillion(m.redis_) }),
				median(ms, func(m measure) float64 { return float64(m.rss) / 1e6 }))
		}
	}
}

func (r *results) printRatios(w io.Writer) {
	floors := map[string][2]string{"A": {"≥ 1.0", "≥ 1.3"}, "B": {"≥ 1.5", "≥ 2.5"}}
	for _, s := range r.shapes {
		fmt.Fprintf(w, "| drain, shape %s, to pg_recvlogical | %s | %s | %s |\n", s.name, floors[s.name][0], floors[s.name][1],
			r.ratio(s.name, walrillName, limitName, measure.rate))
		cpu := func(m measure) float64 { return m.perMillion(m.client) }
		fmt.Fprintf(w, "| client CPU per unit, shape %s, to ordinary Go | ≤ 0.5 | ≤ 0.25 | %s |\n", s.name, r.ratio(s.name, walrillName, ordinaryName, cpu))
		fmt.Fprintf(w, "| client CPU per unit, shape %s, four rules to none | ≤ 2.0 | | %s |\n", s.name, r.ratio(s.name, rulesName, walrillName, cpu))
	}
	if len(r.fills) > 0 {
		fmt.Fprintf(w, "| backfill, to the slower of COPY and a bare pipeline | ≥ 0.7 | | %s |\n", r.fillRatio())
	}
	r.printViews(w)
	r.printKeys(w)
	if len(r.shapes) == 0 {
		return
	}
	fmt.Fprintf(w, "| peak RSS, one transaction of %d rows | < 64 MiB | < 32 MiB | %.1f MiB |\n", r.big.units, float64(r.big.rss)/(1<<20))
	fmt.Fprintf(w, "| commit to XREAD, idle | p50 < 2 ms | p50 < 1 ms, p99 < 5 ms | %s |\n", r.latency)
}

// ratio compares a runner with another round by round, so that a machine whose speed drifts
// does not matter, and gives the median and the extremes.
func (r *results) ratio(shape, name, other string, figure func(measure) float64) string {
	var ratios []float64
	for i, m := range r.runs[shape][name] {
		ratios = append(ratios, figure(m)/figure(r.runs[shape][other][i]))
	}
	return spread(ratios)
}

// fillRatio is the median and the extremes of the rounds' ratios.
func (r *results) fillRatio() string {
	var ratios []float64
	for _, f := range r.fills {
		ratios = append(ratios, f.ratio())
	}
	return spread(ratios)
}

func spread(ratios []float64) string {
	slices.Sort(ratios)
	return fmt.Sprintf("%.2f (%.2f–%.2f)", ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1])
}

// printViews compares each kind of view with the bare upserts, round by round.
func (r *results) printViews(w io.Writer) {
	if len(r.views.rounds) == 0 {
		return
	}
	floors := map[string][2]string{"mirror": {"≥ 0.5", "≥ 20k/s"}, "mirror that emits": {"", "≥ 20k/s"}}
	for i, kind := range viewKinds {
		var ratios, rates, both []float64
		for _, a := range r.views.rounds {
			ratios = append(ratios, a.kinds[kind.name].rate/a.ceiling(kind.name))
			rates = append(rates, a.kinds[kind.name].rate/1000)
			both = append(both, a.both/1000)
		}
		against := "upserts"
		if kind.name == documentKind {
			against = "SETs"
		}
		fmt.Fprintf(w, "| view, %s: changes to bare %s | %s | | %s |\n", kind.name, against, floors[kind.name][0], spread(ratios))
		fmt.Fprintf(w, "| view, %s: k changes/s | %s | | %s |\n", kind.name, floors[kind.name][1], spread(rates))
		if i == 0 {
			fmt.Fprintf(w, "| view, %s: k changes/s, capture included | ≥ 20k/s | | %s |\n", kind.name, spread(both))
		}
		fmt.Fprintf(w, "| view, %s: commit to view, idle | p50 < 10 ms | | %s |\n", kind.name, r.views.latency[kind.name])
	}
}
