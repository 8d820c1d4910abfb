package sink

import (
	"testing"
	"time"
)

// A mark is due 5 ms after the last one was written; one that comes with a full
// batch waits a moment for the next batch to carry it.
func TestMarkSlot(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var s markSlot
	wait := func(want time.Duration, pending bool) {
		t.Helper()
		if got, ok := s.wait(now, false); ok != pending || pending && got != want {
			t.Errorf("wait %v, pending %v; want %v, %v", got, ok, want, pending)
		}
	}
	rides := func(want uint64) {
		t.Helper()
		if got := s.ride(now).watermark; got != want {
			t.Errorf("mark %d rides, want %d", got, want)
		}
	}
	wait(0, false)
	s.put(mark{watermark: 10}, false, now)
	wait(0, true)
	s.written(s.get(), now)
	wait(0, false)
	rides(0)

	s.put(mark{watermark: 20}, false, now)
	wait(markInterval, true)
	now = now.Add(2 * time.Millisecond)
	s.put(mark{watermark: 30}, false, now) // takes its place, and does not put it off
	wait(3*time.Millisecond, true)
	rides(0)
	if d, ok := s.wait(now, true); d != 0 || !ok {
		t.Errorf("in a hurry it waits %v, pending %v", d, ok)
	}
	now = now.Add(4 * time.Millisecond)
	rides(30)
	s.put(mark{watermark: 25}, false, now) // late
	s.put(mark{watermark: 40}, false, now) // while 30 is being written
	s.written(mark{watermark: 30}, now)
	wait(markInterval, true)
	now = now.Add(time.Second)
	s.written(s.get(), now)
	wait(0, false)

	now = now.Add(time.Second)
	s.put(mark{watermark: 50}, true, now)
	wait(markPatience, true)
	rides(50)
	s.written(s.get(), now)
	s.restore()
	wait(0, true)
	if got := s.get().watermark; got != 50 {
		t.Errorf("mark %d is restored", got)
	}
}

// A mark that tells of events does not wait behind one that only says that the WAL has moved; each kind keeps its own distance.
func TestMarkOfEventsComesFirst(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var s markSlot
	due := func(want time.Duration) {
		t.Helper()
		if got, ok := s.wait(now, false); !ok || got != want {
			t.Errorf("wait %v, pending %v; want %v", got, ok, want)
		}
	}
	s.written(mark{watermark: 10, appended: 1}, now)
	now = now.Add(4 * time.Millisecond)
	s.written(mark{watermark: 20, appended: 1}, now) // of the WAL alone
	now = now.Add(2 * time.Millisecond)
	if !s.put(mark{watermark: 30, appended: 1}, false, now) {
		t.Error("nobody is to look at the first mark")
	}
	due(3 * time.Millisecond)
	if !s.put(mark{watermark: 40, appended: 2}, false, now) {
		t.Error("the mark that tells of events is not looked at")
	}
	due(0)
	if got := s.ride(now).watermark; got != 40 {
		t.Errorf("mark %d rides, want 40", got)
	}
	s.written(s.get(), now)
	if s.put(mark{watermark: 50, appended: 3}, false, now); s.put(mark{watermark: 60, appended: 4}, false, now) {
		t.Error("another mark of events is looked at for itself")
	}
	due(markInterval)
}
