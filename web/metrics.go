package web

import "github.com/prometheus/client_golang/prometheus"

// collector turns a report into metrics at each scrape.
type collector struct{ report func() Report }

type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(Report) float64
}

func gauge(name, help string, value func(Report) float64) metric {
	return metric{prometheus.NewDesc("walrill_"+name, help, nil, nil), prometheus.GaugeValue, value}
}

func counter(name, help string, value func(Report) float64) metric {
	return metric{prometheus.NewDesc("walrill_"+name, help, nil, nil), prometheus.CounterValue, value}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

var metrics = []metric{
	gauge("streaming", "1 while changes are read from Postgres.", func(r Report) float64 { return truth(r.State == "streaming") }),
	gauge("standby", "1 while another instance has the slot.", func(r Report) float64 { return truth(r.State == "standby") }),
	gauge("slot_lost", "1 while the slot is lost: changes are missing from the streams.", func(r Report) float64 { return truth(r.State == "slot_lost" || r.State == "repairing") }),
	gauge("lag_bytes", "WAL between the confirmed position and the end.", func(r Report) float64 { return float64(r.Source.LagBytes) }),
	gauge("lag_seconds", "Age of the confirmed position, 0 when nothing is missing.", func(r Report) float64 { return r.Source.LagSeconds }),
	gauge("retained_wal_bytes", "WAL that the slot makes Postgres keep.", func(r Report) float64 { return float64(r.Source.RetainedBytes) }),
	gauge("safe_wal_bytes", "WAL that may still be written before the slot is in danger, -1 without a limit.", func(r Report) float64 { return float64(r.Source.SafeBytes) }),
	gauge("wal_seconds_to_loss", "Time until the slot is lost at the present rate, should it stand still; -1 when unknown or without a limit.", func(r Report) float64 { return r.Source.SecondsToLoss }),
	counter("changes_total", "Changes read from Postgres.", func(r Report) float64 { return float64(r.Source.Changes) }),
	counter("transactions_total", "Transactions read from Postgres.", func(r Report) float64 { return float64(r.Source.Transactions) }),
	counter("entries_total", "Entries published to Redis.", func(r Report) float64 { return float64(r.Sink.Entries) }),
	counter("duplicates_total", "Entries that were in Redis already.", func(r Report) float64 { return float64(r.Sink.Duplicates) }),
	counter("schema_breaks_total", "Schema versions that may break consumers, because a table has changed.", func(r Report) float64 { return float64(r.Sink.SchemaBreaks) }),
	gauge("parked_keys", "Keys whose changes are set aside because a rule failed.", func(r Report) float64 { return float64(r.Sink.ParkedKeys) }),
	counter("batches_total", "Batches that Redis acknowledged.", func(r Report) float64 { return float64(r.Sink.Batches) }),
	counter("published_bytes_total", "Bytes sent to Redis.", func(r Report) float64 { return float64(r.Sink.Bytes) }),
	gauge("backfill_rows", "Rows of the backfills that the daemon knows of, finished or not.", func(r Report) float64 { return float64(r.Backfill.Rows) }),
	gauge("backfill_tables_waiting", "Tables that wait to be backfilled.", func(r Report) float64 { return float64(r.Backfill.Waiting) }),
	gauge("backfill_tables_running", "Tables that are being backfilled.", func(r Report) float64 { return float64(r.Backfill.Running) }),
	gauge("backfill_tables_failed", "Tables whose backfill failed.", func(r Report) float64 { return float64(r.Backfill.Failed) }),
	gauge("reload_failed", "1 while the configuration file, as it is now, is refused and an earlier one is in force.", func(r Report) float64 { return truth(r.Reload.State == "failed") }),
	counter("reloads_total", "Configuration files that came into force while streaming.", func(r Report) float64 { return float64(r.Reload.Count) }),
	gauge("redis_ok", "1 while Redis takes entries.", func(r Report) float64 { return truth(r.Sink.ErrorKind == "") }),
}

// viewMetric is a number of each view.
type viewMetric struct {
	desc  *prometheus.Desc
	value func(*Views, View) float64
}

func viewGauge(name, help string, value func(*Views, View) float64) viewMetric {
	return viewMetric{prometheus.NewDesc("walrill_view_"+name, help, []string{"view"}, nil), value}
}

var viewMetrics = []viewMetric{
	viewGauge("live", "1 while the view is complete and follows.", func(v *Views, w View) float64 {
		if w.Lag != nil {
			return truth(w.Running && w.State == "live")
		}
		return truth(v.State == "running" && v.Gap == "" && w.State == "live")
	}),
	viewGauge("parked", "Keys of the view that are set aside.", func(_ *Views, w View) float64 { return float64(w.Parked) }),
}

// They are told of views whose position this process knows.
var (
	viewLagBytes   = prometheus.NewDesc("walrill_view_lag_bytes", "WAL between the view's position and the watermark in Redis.", []string{"view"}, nil)
	viewLagSeconds = prometheus.NewDesc("walrill_view_lag_seconds", "For how long the view has been behind the watermark in Redis.", []string{"view"}, nil)
)

// behind is how far a view is behind, nil when this process does not know.
func (v *Views) behind(w View) *Behind {
	if w.Lag != nil {
		return w.Behind
	}
	return v.Behind
}

// verifiedMetric is a number of each view, and of each mirror, that was compared with the source.
type verifiedMetric struct {
	desc  *prometheus.Desc
	value func(Verified) float64
}

func verifiedGauge(name, help string, value func(Verified) float64) verifiedMetric {
	return verifiedMetric{prometheus.NewDesc("walrill_verify_"+name, help, []string{"view"}, nil), value}
}

var verifiedMetrics = []verifiedMetric{
	verifiedGauge("differences", "Rows that were not what the source has.", func(v Verified) float64 { return float64(v.Differences) }),
	verifiedGauge("unjudged", "Keys about which nothing could be said, because they kept changing.", func(v Verified) float64 { return float64(v.Unjudged) }),
	verifiedGauge("rows", "Rows that were compared.", func(v Verified) float64 { return float64(v.Rows) }),
	verifiedGauge("timestamp_seconds", "When the view was compared with the source last.", func(v Verified) float64 { return float64(v.At.UnixMilli()) / 1000 }),
}

var verifyFailed = prometheus.NewDesc("walrill_verify_failed", "1 when the last comparison of the views with the source could not be done.", nil, nil)

func (v *Verify) collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(verifyFailed, prometheus.GaugeValue, truth(v.Error != ""))
	for _, w := range v.Views {
		for _, m := range verifiedMetrics {
			ch <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, m.value(w), w.View)
		}
	}
}

func (v *Views) collect(ch chan<- prometheus.Metric) {
	if v.Verify != nil {
		v.Verify.collect(ch)
	}
	for _, w := range v.Views {
		for _, m := range viewMetrics {
			ch <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, m.value(v, w), w.Name)
		}
		if b := v.behind(w); b != nil {
			ch <- prometheus.MustNewConstMetric(viewLagBytes, prometheus.GaugeValue, float64(b.LagBytes), w.Name)
			ch <- prometheus.MustNewConstMetric(viewLagSeconds, prometheus.GaugeValue, b.LagSeconds, w.Name)
		}
	}
}

var (
	redisErrors  = prometheus.NewDesc("walrill_redis_errors_total", "Errors of Redis by kind.", []string{"kind"}, nil)
	batchEntries = prometheus.NewDesc("walrill_batch_entries", "Entries of a batch.", nil, nil)
	ackSeconds   = prometheus.NewDesc("walrill_ack_seconds", "From a batch's first attempt to its acknowledgement.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics {
		ch <- m.desc
	}
	ch <- redisErrors
	for _, m := range viewMetrics {
		ch <- m.desc
	}
	ch <- viewLagBytes
	ch <- viewLagSeconds
	for _, m := range verifiedMetrics {
		ch <- m.desc
	}
	ch <- verifyFailed
	describeRetention(ch)
	ch <- batchEntries
	ch <- ackSeconds
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	r := c.report()
	for _, m := range metrics {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(r))
	}
	if r.Views != nil {
		r.Views.collect(ch)
	}
	if r.Retention != nil {
		r.Retention.collect(ch)
	}
	for kind, n := range r.Sink.Errors {
		ch <- prometheus.MustNewConstMetric(redisErrors, prometheus.CounterValue, float64(n), kind)
	}
	ch <- histogram(batchEntries, r.Sink.BatchEntries)
	ch <- histogram(ackSeconds, r.Sink.AckSeconds)
}

// histogram cumulates, as Prometheus wants it.
func histogram(desc *prometheus.Desc, h Histogram) prometheus.Metric {
	buckets := map[float64]uint64{}
	var count uint64
	for i, n := range h.Counts {
		count += n
		if i < len(h.Bounds) {
			buckets[h.Bounds[i]] = count
		}
	}
	return prometheus.MustNewConstHistogram(desc, count, h.Sum, buckets)
}
