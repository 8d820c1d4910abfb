package projector

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// A request is answered by its own backfill and by any later one of all rows, and not by one that may have begun before.
func TestBackfillAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		b           Backfill
		request     string
		id          string
		ours, asked bool
	}{
		"its own":                  {Backfill{Request: "2-a", Pending: "2-a", Whole: true}, "2-a", "2-a", true, true},
		"its own, of a command":    {Backfill{Request: "abc", Whole: true}, "abc", "abc", true, true},
		"not seen to yet":          {Backfill{Request: "1-x", Pending: "2-a", Whole: true}, "2-a", "2-a", false, true},
		"a later one":              {Backfill{Request: "3-b", Pending: "3-b", Whole: true}, "2-a", "3-b", true, true},
		"a later one is to come":   {Backfill{Request: "1-x", Pending: "3-b", Whole: true, PendingWhole: true}, "2-a", "3-b", false, true},
		"of the same moment":       {Backfill{Request: "1-x", Pending: "2-b", Whole: true, PendingWhole: true}, "2-a", "2-a", false, false},
		"an earlier one":           {Backfill{Request: "1-x", Pending: "1-x", Whole: true, PendingWhole: true}, "2-a", "2-a", false, false},
		"of some rows":             {Backfill{Request: "3-b", Pending: "3-b"}, "2-a", "2-a", false, false},
		"some rows are to come":    {Backfill{Request: "1-x", Pending: "abc", Whole: true}, "2-a", "2-a", false, false},
		"cancelled":                {Backfill{Request: "3-b", Pending: "3-b", Whole: true, Cancelled: true, Error: "it was cancelled"}, "2-a", "2-a", false, false},
		"forgotten":                {Backfill{}, "2-a", "2-a", false, false},
		"the first":                {Backfill{Whole: true}, "", "", true, true},
		"the first is still to be": {Backfill{}, "", "", false, true},
	} {
		id, ours, asked := c.b.answers(c.request)
		if id != c.id || ours != c.ours || asked != c.asked {
			t.Errorf("%s: %q, ours %t, asked %t; want %q, %t, %t", name, id, ours, asked, c.id, c.ours, c.asked)
		}
	}
}

// Whoever fills from one table, and whenever they look, they come to rest with one request.
func TestBackfillRequestsComeToRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Backfill{Whole: true}
		requests := make([]string, rapid.IntRange(2, 4).Draw(t, "who"))
		ask := func(i, seen int) {
			requests[i] = fmt.Sprintf("%d-%d", seen+1, i)
			b.Pending, b.PendingWhole = requests[i], true
		}
		for i := range requests {
			ask(i, 0) // all at once
		}
		last := 2 * len(requests)
		for n := range last + 1 {
			if n == last || rapid.Bool().Draw(t, "taken") {
				b.Request = b.Pending
			}
			for _, i := range rapid.Permutation([]int{0, 1, 2, 3}[:len(requests)]).Draw(t, "order") {
				id, _, asked := b.answers(requests[i])
				if requests[i] = id; !asked {
					if n == last {
						t.Fatalf("somebody asks again: %q are waited for, and the last request is %s", requests, b.Pending)
					}
					ask(i, int(max(RequestNumber(b.Pending), RequestNumber(b.Request))))
				}
			}
		}
		for i := range requests {
			if requests[i] != b.Pending {
				t.Fatalf("%q are waited for, and the last request is %s", requests, b.Pending)
			}
		}
	})
}
