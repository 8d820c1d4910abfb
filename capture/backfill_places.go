package capture

import (
	"slices"
	"sync"
	"sync/atomic"
)

// places are for the connections that read: one for each table, and what is over for second lanes. A table that finds
// none takes that of a second lane, which ends when it has read its piece: that may wait for a lock for long.
type places struct {
	taken   chan struct{} // has room for as many as there are
	waiting atomic.Int64  // tables without one

	mu    sync.Mutex
	lanes []*sparePlace
}

// sparePlace is a second lane's.
type sparePlace struct {
	all  *places
	lost bool // to a table; guarded by all.mu
}

func newPlaces(n int) *places { return &places{taken: make(chan struct{}, n)} }

// give gives back what a table has.
func (p *places) give() { <-p.taken }

// takeOver takes the place of a second lane for a table, and reports false when there is none.
func (p *places) takeOver() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lanes) == 0 {
		return false
	}
	p.lanes[0].lost = true
	p.lanes = p.lanes[1:]
	return true
}

// spare is a place for a second lane, nil when there is none, or tables wait.
func (p *places) spare() *sparePlace {
	if p.waiting.Load() > 0 {
		return nil
	}
	select {
	case p.taken <- struct{}{}:
	default:
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	mine := &sparePlace{all: p}
	p.lanes = append(p.lanes, mine)
	return mine
}

// held reports whether no table has taken the place.
func (m *sparePlace) held() bool {
	m.all.mu.Lock()
	defer m.all.mu.Unlock()
	return !m.lost
}

// give gives it back, if it is not lost.
func (m *sparePlace) give() {
	m.all.mu.Lock()
	defer m.all.mu.Unlock()
	if !m.lost {
		m.all.lanes = slices.DeleteFunc(m.all.lanes, func(p *sparePlace) bool { return p == m })
		<-m.all.taken
	}
}
