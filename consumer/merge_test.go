package consumer

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/walrill/walrill/event"
)

// placed is an entry and where it stands: what a merge must hand out.
type placed struct {
	Pos event.Position
	Key string
}

// fakeStream is a partition that is written while it is read: only its first
// `visible` entries can be read so far.
type fakeStream struct {
	entries []entry
	visible int
}

// read is XREAD: what is visible behind a position, at most count entries.
func (s *fakeStream) read(after event.Position, count int) (got []entry, more bool) {
	for _, e := range s.entries[:s.visible] {
		if e.pos.Compare(after) > 0 && len(got) < count {
			got = append(got, e)
		}
	}
	return got, len(got) == count
}

// reveal makes visible everything below the watermark, and by chance some more.
func (s *fakeStream) reveal(t *rapid.T, watermark uint64) {
	for s.visible < len(s.entries) && s.entries[s.visible].pos.Commit < watermark {
		s.visible++
	}
	s.visible += rapid.IntRange(0, len(s.entries)-s.visible).Draw(t, "ahead of the watermark")
}

// drawStreams makes partitions with random entries, in which an ID may be
// shared by several, and the sequence that a merge must make of them.
func drawStreams(t *rapid.T) (map[string]*fakeStream, []placed) {
	streams := map[string]*fakeStream{}
	var want []placed
	position := rapid.Custom(func(t *rapid.T) event.Position {
		return event.Position{Commit: rapid.Uint64Range(1, 30).Draw(t, "commit"), Ordinal: rapid.Uint64Range(1, 4).Draw(t, "ordinal")}
	})
	for _, key := range rapid.SliceOfNDistinct(rapid.StringMatching(`[a-c]:[0-9]`), 1, 6, rapid.ID).Draw(t, "keys") {
		positions := rapid.SliceOfNDistinct(position, 0, 20, rapid.ID).Draw(t, "positions of "+key)
		slices.SortFunc(positions, event.Position.Compare)
		s := &fakeStream{}
		for _, p := range positions {
			s.entries = append(s.entries, entry{pos: p})
			want = append(want, placed{p, key})
		}
		streams[key] = s
	}
	slices.SortFunc(want, func(a, b placed) int {
		return cmp.Or(a.Pos.Compare(b.Pos), cmp.Compare(a.Key, b.Key))
	})
	return streams, want
}

// below are the entries whose commit is below the watermark.
func below(all []placed, watermark uint64) []placed {
	i := slices.IndexFunc(all, func(p placed) bool { return p.Pos.Commit >= watermark })
	if i < 0 {
		i = len(all)
	}
	return all[:i]
}

func TestMergeIsTheCanonicalSequence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		streams, want := drawStreams(t)
		var m merge
		for key := range streams {
			m.add(&lane{key: key})
		}
		order := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order of reads"), 0))
		var got []placed
		take := func() {
			for {
				l, e, ok := m.next()
				if !ok {
					return
				}
				got = append(got, placed{e.pos, l.key})
			}
		}
		for watermark := uint64(0); watermark < 31; {
			watermark += rapid.Uint64Range(1, 12).Draw(t, "step of the watermark")
			for _, s := range streams {
				s.reveal(t, watermark)
			}
			m.advance(watermark)
			for take(); !m.drained(); take() {
				feedSome(t, &m, streams, order)
				if !slices.Equal(got, want[:len(got)]) {
					t.Fatalf("out of order: %v", got)
				}
			}
			if want := below(want, watermark); !slices.Equal(got, want) {
				t.Fatalf("below %d got %v, want %v", watermark, got, want)
			}
		}
	})
}

// feedSome feeds one or more of the hungry lanes, in any order.
func feedSome(t *rapid.T, m *merge, streams map[string]*fakeStream, order *rand.Rand) {
	var hungry []*lane
	for _, l := range m.lanes {
		if l.hungry() {
			hungry = append(hungry, l)
		}
	}
	order.Shuffle(len(hungry), func(i, j int) { hungry[i], hungry[j] = hungry[j], hungry[i] })
	for _, l := range hungry[:1+order.IntN(len(hungry))] {
		got, more := streams[l.key].read(l.read, rapid.IntRange(1, 5).Draw(t, "count"))
		m.feed(l, got, more)
	}
}

func TestMergeTakesALaneLate(t *testing.T) {
	var m merge
	a, b := &lane{key: "a"}, &lane{key: "b"}
	m.add(a)
	m.advance(10)
	m.feed(a, []entry{{pos: event.Position{Commit: 3, Ordinal: 1}}, {pos: event.Position{Commit: 12, Ordinal: 1}}}, true)
	m.add(b)
	if _, _, ok := m.next(); ok {
		t.Fatal("handed out an entry although the new lane has not been read")
	}
	m.feed(b, []entry{{pos: event.Position{Commit: 2, Ordinal: 1}}}, false)
	var got []uint64
	for _, e, ok := m.next(); ok; _, e, ok = m.next() {
		got = append(got, e.pos.Commit)
	}
	if want := []uint64{2, 3}; !slices.Equal(got, want) || !m.drained() {
		t.Fatalf("got %v, drained %v; want %v", got, m.drained(), want)
	}
}
