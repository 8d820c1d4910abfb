package sink

import (
	"slices"
	"sync"
	"time"
)

// Status is a snapshot of a publisher for people and metrics.
type Status struct {
	State     string    // one of the State constants
	Since     time.Time // of the state
	Server    string    // that is written to; one of the nodes in a Cluster
	ErrorKind string    // of the last error, also when it is over; empty when there was none
	Error     string    // its text; no secret is in it

	Entries uint64 // acknowledged
	Skipped uint64 // events that were there already when they were appended
	Batches uint64
	Bytes   uint64            // as sent, of acknowledged batches
	Errors  map[string]uint64 // by kind

	InFlight     bool          // a batch is on its way
	Durable      uint64        // watermark
	LastBatch    int           // entries of the batch acknowledged last
	LastAck      time.Duration // from its first attempt to its acknowledgement
	BatchEntries Histogram
	AckSeconds   Histogram
}

// Histogram counts values by upper bound, as Prometheus does, but not cumulated:
// Counts has one more than Bounds, for values above all of them.
type Histogram struct {
	Bounds []float64
	Counts []uint64
	Sum    float64
}

func (h *Histogram) observe(v float64) {
	i, _ := slices.BinarySearch(h.Bounds, v)
	h.Counts[i]++
	h.Sum += v
}

func newHistogram(bounds ...float64) Histogram {
	return Histogram{Bounds: bounds, Counts: make([]uint64, len(bounds)+1)}
}

func (h Histogram) clone() Histogram {
	h.Counts = slices.Clone(h.Counts)
	return h
}

// counters count what was acknowledged. Any goroutine may use them.
type counters struct {
	mu                      sync.Mutex
	entries, batches, bytes uint64
	last                    int
	lastAck                 time.Duration
	size, ack               Histogram
}

func (c *counters) init() {
	c.size = newHistogram(1, 3, 10, 30, 100, 300, 1000, 3000, 10000)
	c.ack = newHistogram(.0001, .0003, .001, .003, .01, .03, .1, .3, 1, 3, 10)
}

func (c *counters) acknowledged(b *batch, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries += uint64(len(b.entries))
	c.bytes += uint64(len(b.buf))
	c.batches++
	c.last, c.lastAck = len(b.entries), took
	c.size.observe(float64(len(b.entries)))
	c.ack.observe(took.Seconds())
}

// Status is a snapshot. Any goroutine may call it.
func (p *Publisher) Status() Status {
	var s Status
	p.control.snapshot(&s)
	waiting := s
	p.publishing.snapshot(&s)
	for kind, n := range waiting.Errors {
		s.Errors[kind] += n
	}
	if waiting.State == StateRetrying && s.State != StateRetrying {
		s.State, s.Since, s.ErrorKind, s.Error = waiting.State, waiting.Since, waiting.ErrorKind, waiting.Error
	}
	if err := p.Err(); err != nil {
		s.State, s.Error = StateFailed, err.Error()
	}
	s.Skipped, s.Durable, s.InFlight = p.skipped.Load(), p.durable.Load(), p.busy.Load()
	c := &p.counters
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Entries, s.Batches, s.Bytes = c.entries, c.batches, c.bytes
	s.LastBatch, s.LastAck = c.last, c.lastAck
	s.BatchEntries, s.AckSeconds = c.size.clone(), c.ack.clone()
	return s
}
