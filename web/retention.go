package web

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Retention is what becomes of entries that are beyond the limits of sink.retention.
type Retention struct {
	At      time.Time        `json:"at,omitzero"`     // of the last whole pass over the streams
	Error   string           `json:"error,omitempty"` // why it has left some of them alone
	Streams []RetainedStream `json:"streams"`
	Held    []HeldStream     `json:"held"`
}

// RetainedStream is one stream over all its partitions.
type RetainedStream struct {
	Name    string    `json:"name"`
	Trimmed uint64    `json:"trimmed_entries"` // by this daemon, since it started
	Gone    uint64    `json:"gone_entries"`    // that were there once, whoever has trimmed them
	Oldest  time.Time `json:"oldest,omitzero"` // commit time of the oldest entry
}

// HeldStream is a stream that has entries beyond the limits because a consumer group has not read them.
type HeldStream struct {
	Stream     string    `json:"stream"`
	Group      string    `json:"group"`
	Partitions int       `json:"partitions"` // of the stream, that it holds
	Unread     uint64    `json:"unread_entries"`
	Oldest     time.Time `json:"oldest"` // commit time of the first entry that it needs
	Fix        string    `json:"fix"`
}

var (
	trimmedEntries  = prometheus.NewDesc("walrill_trimmed_entries_total", "Entries that were trimmed.", []string{"stream"}, nil)
	oldestEntry     = prometheus.NewDesc("walrill_oldest_entry_seconds", "Time since the commit of the stream's oldest entry.", []string{"stream"}, nil)
	heldEntries     = prometheus.NewDesc("walrill_retention_held_entries", "Entries that a consumer group has not read, where it keeps a stream from being trimmed.", []string{"stream", "group"}, nil)
	retentionFailed = prometheus.NewDesc("walrill_retention_failed", "1 while streams that should be trimmed cannot be.", nil, nil)
)

func describeRetention(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{trimmedEntries, oldestEntry, heldEntries, retentionFailed} {
		ch <- desc
	}
}

func (r *Retention) collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(retentionFailed, prometheus.GaugeValue, truth(r.Error != ""))
	for _, s := range r.Streams {
		ch <- prometheus.MustNewConstMetric(trimmedEntries, prometheus.CounterValue, float64(s.Trimmed), s.Name)
		if !s.Oldest.IsZero() {
			ch <- prometheus.MustNewConstMetric(oldestEntry, prometheus.GaugeValue, time.Since(s.Oldest).Seconds(), s.Name)
		}
	}
	for _, h := range r.Held {
		ch <- prometheus.MustNewConstMetric(heldEntries, prometheus.GaugeValue, float64(h.Unread), h.Stream, h.Group)
	}
}
