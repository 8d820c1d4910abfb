package bridge

import (
	"context"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// former is the mapping that an earlier session has published by, in part, what comes until a clock; the one in force
// now is another. To repeat that by this one would give it other numbers, unless both say the same of the tables that
// changed in it.
type former struct {
	record  string
	entries func(mapping string, table *change.Relation) (string, bool)
	now     string
	until   event.Position // of the highest entry there is
	reached event.Position // of the last one that was repeated
	skipped bool           // something in the transaction of the highest one

	table  *change.Relation // that skips is for
	skips  bool
	differ error // of a table that both say different things of
}

// checkMapping returns what must be heeded when the streams have entries above where they are complete
// and another mapping has made them; nil when nothing must. It refuses when they cannot be repeated: the configuration was
// changed after a crash, or Redis has lost what was published before a reload. Complete is where repeating begins.
func (o *Options) checkMapping(meta event.Meta, complete uint64, highest event.Position) (*former, error) {
	epoch, lsn := event.SplitClock(highest.Commit)
	if meta.Mapping == "" || epoch != meta.Epoch || highest.Commit == 0 || highest.Commit < complete {
		return nil, nil // nothing is there in part
	}
	_, from := event.SplitClock(complete)
	if complete < meta.Since {
		_, since := event.SplitClock(meta.Since)
		return nil, fatalf("Redis has lost entries from %s on, and those before %s were made by an earlier configuration: they cannot be repeated as they were\n"+
			"  fix: restore Redis, or run `walrill adopt`, which publishes them again in a new epoch", change.LSN(from), change.LSN(since))
	}
	if meta.Mapping == o.Mapping {
		return nil, nil
	}
	f := &former{record: meta.Mapping, entries: o.Entries, now: o.Mapping, until: highest}
	f.differ = fatalf("walrill did not end in order, and the streams of the configuration have changed since: what was committed from %s to %s is published in part, as the earlier configuration says", change.LSN(from), change.LSN(lsn))
	for _, record := range []string{meta.Mapping, o.Mapping} {
		if _, ok := o.Entries(record, &change.Relation{}); !ok {
			return nil, f.refusal("tables cannot be compared one by one where one of the two has aggregates, messages or on_error: park")
		}
	}
	return f, nil
}

const refusedFix = "\n  fix: put the earlier configuration back, start walrill until it streams, and change it then; or run `walrill adopt`, which publishes that part again in a new epoch"

func (f *former) refusal(why string) error { return fatalf("%w; %s%s", f.differ, why, refusedFix) }

// skip reports whether a change of the table made nothing then, so that it must make nothing now: the table
// was not mapped, and what it holds by then is its backfill's. It refuses a table that was mapped another way.
func (f *former) skip(table *change.Relation) (bool, error) {
	if table == nil { // a logical message
		return false, nil
	}
	if f.table == table { // rows of one table come in runs
		return f.skips, nil
	}
	was, _ := f.entries(f.record, table)
	is, _ := f.entries(f.now, table)
	if was != "" && was != is {
		return false, f.refusal("table " + table.String() + " changed in it, and is mapped another way now")
	}
	f.table, f.skips = table, was == "" && is != ""
	return f.skips, nil
}

// repeat reports whether a change is left out. It leaves the former mapping once the last change that made an entry is
// behind, which may be amid a transaction: it may have stopped there, at a change that this one was made for.
func (s *session) repeat(ctx context.Context, c *change.Change) (skip bool, err error) {
	f := s.former
	last, behind := s.clock(s.tx.CommitLSN) == f.until.Commit, f.reached.Compare(f.until) >= 0
	if last && behind && !f.skipped {
		return false, s.leave(ctx)
	}
	skip, err = f.skip(c.Relation)
	if err == nil && skip && last {
		// A restart repeats the whole transaction by one mapping. And it cannot be told whether the former one passed this change.
		if f.skipped = true; behind {
			err = f.refusal("table " + c.Relation.String() + " changed in the middle of it, and was not mapped then")
		}
	}
	if err != nil {
		return false, s.refuse(ctx, err)
	}
	return skip, nil
}

// leave puts the mapping in force by itself, when what the former one had published in part is behind.
func (s *session) leave(ctx context.Context) error {
	if err := s.settle(ctx); err != nil {
		return err
	}
	s.mapBy(s.bridge.opts.Mapping, max(s.complete, s.clock(s.seen.received)))
	if err := s.saveMeta(ctx); err != nil {
		return err
	}
	s.former = nil
	return nil
}
