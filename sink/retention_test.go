package sink

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/walrill/walrill/event"
)

func TestSurplus(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for _, tc := range []struct {
		what   string
		r      Retention
		age    time.Duration
		seq    uint64 // of 1000
		margin float64
		want   bool
	}{
		{"no limit", Retention{}, math.MaxInt64, 1, marginNone, false},
		{"young", Retention{MaxAge: time.Hour}, time.Hour, 1, marginNone, false},
		{"old", Retention{MaxAge: time.Hour}, time.Hour + 1, 1, marginNone, true},
		{"old, by less than the margin", Retention{MaxAge: time.Hour}, time.Hour + 36*time.Second, 1, marginTrim, false},
		{"old by the margin", Retention{MaxAge: time.Hour}, time.Hour + 37*time.Second, 1, marginTrim, true},
		{"from the future", Retention{MaxAge: time.Hour}, -time.Hour, 1, marginNone, false},
		{"among the last", Retention{MaxEntries: 10}, time.Hour, 991, marginNone, false},
		{"before the last", Retention{MaxEntries: 10}, time.Hour, 990, marginNone, true},
		{"before the last, by less than the margin", Retention{MaxEntries: 10}, time.Hour, 986, marginWarn, false},
		{"before the last by the margin", Retention{MaxEntries: 10}, time.Hour, 985, marginWarn, true},
		{"either limit", Retention{MaxAge: time.Hour, MaxEntries: 10}, 0, 5, marginNone, true},
		{"more entries than there are", Retention{MaxEntries: 1 << 53}, 0, 1, marginNone, false},
	} {
		if got := tc.r.surplus(stored{seq: tc.seq, time: now.Add(-tc.age)}, 1000, now, tc.margin); got != tc.want {
			t.Errorf("%s: %t", tc.what, got)
		}
	}
}

func TestBound(t *testing.T) {
	at := func(commit, ordinal uint64) event.Position { return event.Position{Commit: commit, Ordinal: ordinal} }
	none := event.Position{}
	last, all := at(50, 2), uint64(60)
	for _, tc := range []struct {
		what   string
		safe   uint64
		groups []groupState
		want   event.Position
		by     string
	}{
		{"the last entry stays", all, nil, last, ""},
		{"what may be sent again stays", 50, nil, at(50, 0), ""},
		{"nothing is confirmed", 0, nil, none, ""},
		{"a group that is behind", all, []groupState{{"a", at(30, 1), none}}, at(30, 2), "a"},
		{"a group that has read all", all, []groupState{{"a", last, none}}, last, ""},
		{"a group that never read", all, []groupState{{"a", none, none}}, at(0, 1), "a"},
		{"a group with a pending entry", all, []groupState{{"a", last, at(20, 7)}}, at(20, 7), "a"},
		{"a group that was set back before what it has pending", all, []groupState{{"a", at(10, 1), at(20, 7)}}, at(10, 2), "a"},
		{"the slowest group", all, []groupState{{"a", at(30, 1), none}, {"b", at(20, 5), none}, {"c", at(40, 1), none}}, at(20, 6), "b"},
		{"a view's, which stands before a clock", all, []groupState{{"view:a", at(29, math.MaxUint64), none}}, at(30, 0), "view:a"},
		{"a group beyond what may be sent again", 20, []groupState{{"a", at(30, 1), none}}, at(20, 0), ""},
		{"a group beyond the last entry", all, []groupState{{"a", at(90, 1), none}}, last, ""},
	} {
		if got, by := bound(last, tc.safe, tc.groups); got != tc.want || by != tc.by {
			t.Errorf("%s: %v by %q, want %v by %q", tc.what, got, by, tc.want, tc.by)
		}
	}
}

// The search ends behind the last entry that is surplus, however the IDs lie, at the limit or before it, and with few questions.
func TestSearch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var entries []stored
		pos := event.Position{Commit: rapid.Uint64Range(0, 1<<57).Draw(t, "first commit"), Ordinal: 1}
		n := rapid.IntRange(2, 200).Draw(t, "entries")
		for seq := uint64(1); len(entries) < n; seq++ {
			entries = append(entries, stored{pos: pos, seq: seq})
			switch rapid.IntRange(0, 5).Draw(t, "next") {
			case 0, 1:
				pos = event.Position{Commit: pos.Commit + rapid.Uint64Range(1, 1<<50).Draw(t, "later"), Ordinal: rapid.Uint64Range(0, 1<<40).Draw(t, "ordinal")}
			case 2:
				pos = event.Position{Commit: pos.Commit + 1}
			case 3:
				pos.Ordinal += rapid.Uint64Range(1, 1<<40).Draw(t, "further")
			case 4:
				seq += rapid.Uint64Range(0, 2).Draw(t, "deleted") // by somebody, so seq has holes
				fallthrough
			default:
				pos.Ordinal++
			}
		}
		old := rapid.IntRange(1, n).Draw(t, "surplus") // entries
		below := rapid.IntRange(1, n-1).Draw(t, "below the limit")
		limit := entries[below].pos
		if rapid.Bool().Draw(t, "between two") {
			if after := behind(entries[below-1].pos); after.Compare(limit) < 0 {
				limit = after
			}
		}
		s := newSearch(entries[0], limit)
		questions := 0
		for ; !s.done; questions++ {
			if questions > 200 {
				t.Fatalf("it does not end: it asks for %v", s.next)
			}
			i := 0
			for i < n && entries[i].pos.Compare(s.next) < 0 {
				i++
			}
			if i == n {
				s.found(stored{}, false)
				continue
			}
			s.found(entries[i], i < old)
		}
		gone := 0
		for gone < n && entries[gone].pos.Compare(s.hi) < 0 {
			gone++
		}
		if want := min(old, below); gone != want {
			t.Fatalf("below %v are %d entries, want %d", s.hi, gone, want)
		}
	})
}
