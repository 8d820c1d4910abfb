package event

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Meta is the :meta hash: what a pipeline knows of where its events come
// from. The zero Meta means that the pipeline is new to this Redis. It is
// registered, with System and Timeline, before its slot is made.
type Meta struct {
	System   string // Postgres's system identifier
	Timeline int32
	Epoch    uint8
	Baseline uint64 // the first watermark of the epoch; of an earlier epoch or 0 until there is one
	// Repair names the last repair of a lost slot. RepairFrom is set while it is under way:
	// the clock up to which the streams were complete before.
	Repair     string
	RepairFrom uint64
	Mapping    string // a record of the mapping that entries are made by, which only tells whether another one is the same
	Since      uint64 // and the clock from which on they are
	// Outboxes are the tables that this mapping takes as outboxes, each with the clock from which on all mappings have.
	Outboxes map[string]uint64
	HTTP     string         // where the daemon that wrote last answers; empty when it does not
	Dropped  string         // when `walrill drop` has left the streams and removed the rest; empty when it has not
	Streams  map[string]int // partitions of each stream, by name
}

// The fields of the hash.
const (
	metaSystem     = "system"
	metaTimeline   = "timeline"
	metaEpoch      = "epoch"
	metaBaseline   = "baseline"
	metaMapping    = "mapping"
	metaSince      = "since"
	metaOutboxes   = "outboxes" // JSON object
	metaRepair     = "repair"
	metaRepairFrom = "repair_from"
	metaHTTP       = "http"
	metaDropped    = "dropped"
	metaPartitions = "partitions:" // and the stream's name
	metaSchema     = "schema:"     // and stream and table; see Schema.HighestField
)

// EpochField is the field of the hash that holds the epoch.
const EpochField = metaEpoch

// PartitionsField is the field of the hash that holds how many partitions a stream has.
func PartitionsField(stream string) string { return metaPartitions + stream }

// IsZero reports whether nothing is recorded yet.
func (m Meta) IsZero() bool { return m.System == "" }

// Begun reports whether a watermark of the present epoch was ever written.
func (m Meta) Begun() bool {
	epoch, _ := SplitClock(m.Baseline)
	return m.Baseline != 0 && epoch == m.Epoch
}

// Fields are the hash's fields and values.
func (m Meta) Fields() map[string]string {
	fields := map[string]string{
		metaSystem:   m.System,
		metaTimeline: strconv.FormatInt(int64(m.Timeline), 10),
		metaEpoch:    strconv.FormatUint(uint64(m.Epoch), 10),
		metaHTTP:     m.HTTP,
		metaDropped:  m.Dropped,
	}
	if m.Baseline != 0 {
		fields[metaBaseline] = strconv.FormatUint(m.Baseline, 10)
	}
	if m.Mapping != "" {
		fields[metaMapping], fields[metaSince] = m.Mapping, strconv.FormatUint(m.Since, 10)
	}
	if m.Outboxes != nil {
		text, _ := json.Marshal(m.Outboxes) // of texts and numbers, so it cannot fail
		fields[metaOutboxes] = string(text)
	}
	if m.Repair != "" {
		fields[metaRepair] = m.Repair
		fields[metaRepairFrom] = strconv.FormatUint(m.RepairFrom, 10)
	}
	for stream, n := range m.Streams {
		fields[PartitionsField(stream)] = strconv.Itoa(n)
	}
	return fields
}

// ParseMeta is the inverse of Fields. Fields that it does not know are left out.
func ParseMeta(fields map[string]string) (Meta, error) {
	m := Meta{System: fields[metaSystem], Mapping: fields[metaMapping], HTTP: fields[metaHTTP], Dropped: fields[metaDropped], Repair: fields[metaRepair]}
	number := func(field string, bits int) (int64, error) {
		text, ok := fields[field]
		if !ok {
			return 0, nil
		}
		n, err := strconv.ParseInt(text, 10, bits)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("field %s of :meta: %q is not a number that can be", field, text)
		}
		return n, nil
	}
	timeline, err := number(metaTimeline, 32)
	if err != nil {
		return m, err
	}
	epoch, err := number(metaEpoch, 9)
	if err != nil {
		return m, err
	}
	m.Timeline, m.Epoch = int32(timeline), uint8(epoch)
	for field, clock := range map[string]*uint64{metaBaseline: &m.Baseline, metaSince: &m.Since, metaRepairFrom: &m.RepairFrom} {
		if text, ok := fields[field]; ok {
			if *clock, err = strconv.ParseUint(text, 10, 64); err != nil {
				return m, fmt.Errorf("field %s of :meta: %q is not a number that can be", field, text)
			}
		}
	}
	if text, ok := fields[metaOutboxes]; ok {
		if err := json.Unmarshal([]byte(text), &m.Outboxes); err != nil {
			return m, fmt.Errorf("field %s of :meta: %q is not an object of numbers", metaOutboxes, text)
		}
	}
	for field := range fields {
		stream, ok := strings.CutPrefix(field, metaPartitions)
		if !ok {
			continue
		}
		n, err := number(field, 32)
		if err != nil {
			return m, err
		}
		if m.Streams == nil {
			m.Streams = map[string]int{}
		}
		m.Streams[stream] = int(n)
	}
	return m, nil
}
