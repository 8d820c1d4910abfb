package bridge

import (
	"strings"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// CheckLineage decides whether the streams in Redis may be continued from
// where the slot stands. Watermark is the top of :commits, start the slot's confirmed
// position. It returns the meta to record, or an error that says what
// happened and what to do.
//
// The slot is only ever confirmed up to a watermark that is in :commits. So a slot
// that is ahead of :commits means that entries are missing in between.
func CheckLineage(meta event.Meta, watermark uint64, source Source, start change.LSN) (event.Meta, error) {
	if err := CheckDropped(meta); err != nil {
		return meta, err
	}
	if meta.IsZero() {
		if watermark != 0 {
			return meta, fatalf("Redis has streams of this pipeline but has lost %s: it cannot be told whether they belong to this Postgres\n"+
				"  fix: restore it, or run `walrill adopt` to go on from now in a new epoch", "the :meta hash")
		}
		if source.SlotUsed && !source.SlotCreated {
			return meta, fatalf("the slot was streamed from before, up to %s, but this Redis knows nothing of the pipeline: it has lost everything, or it is another Redis\n"+
				"  fix: restore it or correct sink.url, or run `walrill adopt` to go on from here, without what was published before, in a new epoch", start)
		}
		return event.Meta{System: source.SystemID, Timeline: source.Timeline}, nil
	}
	epoch, top := event.SplitClock(watermark)
	if watermark == 0 {
		epoch = meta.Epoch
	}
	branched := checkTimeline(meta, change.LSN(top), source)
	switch {
	case meta.System != source.SystemID:
		return meta, fatalf("this is another Postgres: the streams in Redis come from system %s, source.url leads to system %s\n"+
			"  fix: correct source.url, or run `walrill adopt` to let this system continue the streams in a new epoch", meta.System, source.SystemID)
	case epoch > meta.Epoch:
		return meta, fatalf("the streams are in epoch %d but :meta says %d\n  fix: run `walrill adopt`", epoch, meta.Epoch)
	case epoch < meta.Epoch, watermark == 0 && !meta.Begun():
		// Adopted, or never begun: it starts wherever the slot stands.
	case branched != nil:
		return meta, branched
	case meta.RepairFrom != 0:
		// The gap is known: the tables are emptied behind it, and read again.
	case source.SlotCreated:
		return meta, fatalf("the slot was gone and has been made anew at %s: changes since %s are not in the streams\n"+
			"  fix: run `walrill adopt` to go on from here with that gap, in a new epoch", start, change.LSN(top))
	case start > change.LSN(top):
		return meta, fatalf("Redis has lost entries, or the slot was moved or made anew: Postgres sends what comes after %s only, and the streams are complete up to %s\n"+
			"  fix: restore Redis, or run `walrill adopt` to go on from here with that gap, in a new epoch", start, change.LSN(top))
	}
	meta.Timeline = source.Timeline
	return meta, nil
}

// CheckDropped refuses a pipeline that was dropped and whose streams were left.
func CheckDropped(meta event.Meta) error {
	if meta.Dropped == "" {
		return nil
	}
	return fatalf("the pipeline was dropped at %s, and its streams were left\n"+
		"  fix: run `walrill drop --streams` to begin anew, or `walrill adopt` to continue the streams from now on with a gap, in a new epoch", meta.Dropped)
}

// CheckStream refuses a stream of the mapping that cannot be continued: it has other partitions than in
// Redis, or entries of this epoch that are not the pipeline's. Top is its highest entry.
func CheckStream(meta event.Meta, stream *event.Stream, top event.Position) error {
	n, ours := meta.Streams[stream.Name]
	if ours && n != len(stream.Keys) {
		return fatalf("stream %s has %d partitions in Redis, the configuration says %d: keys would change their partition and lose their order\n"+
			"  fix: set partitions back to %d, or use a new stream name", stream.Name, n, len(stream.Keys), n)
	}
	if epoch, _ := event.SplitClock(top.Commit); !ours && !top.IsZero() && epoch == meta.Epoch {
		return fatalf("stream %s has entries already, up to %s, and they are not of this pipeline\n"+
			"  fix: choose another name for the stream, or delete it when nobody needs it (redis-cli DEL %s)", stream.Name, top.ID(), strings.Join(stream.Keys, " "))
	}
	return nil
}

// checkTimeline decides whether the streams, which are complete up to top, are a part of this server's history.
func checkTimeline(meta event.Meta, top change.LSN, source Source) error {
	left, through := source.History[meta.Timeline]
	switch {
	case meta.Timeline == source.Timeline:
		return nil
	case !through:
		return fatalf("the streams come from timeline %d of this system, and the server that source.url leads to is on timeline %d, which does not come from there: it is an old primary, or was restored from an older backup\n"+
			"  fix: correct source.url, or run `walrill adopt` to let this server continue the streams in a new epoch", meta.Timeline, source.Timeline)
	case left < top:
		return fatalf("Postgres is on timeline %d now, which left timeline %d at %s, and the streams are complete up to %s: they may have changes that the new primary lacks, and what it writes would collide with them\n"+
			"  fix: run `walrill adopt` to accept its history from %[3]s on, in a new epoch", source.Timeline, meta.Timeline, left, top)
	}
	return nil
}
