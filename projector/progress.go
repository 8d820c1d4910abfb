package projector

import (
	"maps"
	"slices"
	"time"
)

// Progress is how far the views have read their streams.
type Progress struct {
	Clock uint64              // everything below was read
	Seqs  map[string]uint64   // of the last event that was read, by partition
	Live  map[string][]string // the streams of each view that follows them
}

// progressEvery is how often it is told while batch follows batch.
const progressEvery = time.Second

// tellProgress makes known how far the streams are read. It is called between batches; while there is a gap, no view follows.
func (s *session) tellProgress() {
	s.told = time.Now()
	var p *Progress
	if s.pos.gap == "" && s.pos.shown > 0 {
		p = &Progress{Clock: s.pos.shown, Seqs: maps.Clone(s.seqs), Live: map[string][]string{}}
		for name, v := range s.views {
			if v.state == stateLive {
				p.Live[name] = v.def.streams()
			}
		}
	}
	s.projector.note(func(st *Status) { st.Progress = p })
}

// streams are those that a view reads; none of a view that was never complete.
func (d *definition) streams() []string {
	var names []string
	if d != nil {
		for _, m := range d.Mirrors {
			names = append(names, m.Stream)
		}
		if d.folds() {
			names = append(names, d.Fold.Streams...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
