package consumer

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/walrill/walrill/event"
)

// A GapError says that events are missing: the seqs of two entries that follow
// each other in a partition are not contiguous. The entry behind the gap comes
// with the next call of Reader.Next.
type GapError struct {
	Key                 string // the partition
	After, Before       event.Position
	AfterSeq, BeforeSeq uint64
}

func (e *GapError) Error() string {
	if e.BeforeSeq <= e.AfterSeq {
		return fmt.Sprintf("gap in %s: seq goes back from %d at %v to %d at %v", e.Key, e.AfterSeq, e.After, e.BeforeSeq, e.Before)
	}
	return fmt.Sprintf("gap in %s: %d events are missing between seq %d at %v and seq %d at %v",
		e.Key, e.BeforeSeq-e.AfterSeq-1, e.AfterSeq, e.After, e.BeforeSeq, e.Before)
}

// Missing marks errors after which what was made of the events cannot be right any more.
func (e *GapError) Missing()  {}
func (e *LateError) Missing() {}

// Foreign marks an error about an entry that is not walrill's.
func (e *EntryError) Foreign() {}

// Lost marks an error about what will come again.
func (e *LossError) Lost() {}

// An EntryError says that an entry is none of ours: written by another
// program. The next call of
// Reader.Next goes on behind it.
type EntryError struct {
	Key string // the partition
	Err error  // names the entry
}

func (e *EntryError) Error() string { return fmt.Sprintf("read %s: %v", e.Key, e.Err) }
func (e *EntryError) Unwrap() error { return e.Err }

// A LossError says that Redis lost what it had: the watermark is below a
// position that had been reached. It is reported once a loss. The daemon
// publishes the lost tail again, with the same IDs, as far as Postgres still
// has it; the next call of Reader.Next waits for that and goes on.
type LossError struct {
	Key       string // the stream of watermarks
	Reached   uint64 // the watermark, or the start's commit, that had been reached
	Watermark uint64 // what it is now; 0 when the stream is empty
}

func (e *LossError) Error() string {
	return fmt.Sprintf("redis lost data: %s had reached %s and is now at %s", e.Key, clock(e.Reached), clock(e.Watermark))
}

// A LateError says that an entry came into its partition after the watermark
// had passed it, so that events above it have been handed out before. That
// happens when Redis lost its tail in a failover and the daemon publishes it
// again. It is reported once a partition for entries that follow each other;
// the first of them comes with the next call of Reader.Next.
type LateError struct {
	Key       string // the partition
	Position  event.Position
	Watermark uint64 // everything below it was said to be there
}

func (e *LateError) Error() string {
	return fmt.Sprintf("%s has an entry at %v although the watermark had passed it and was at %s", e.Key, e.Position, clock(e.Watermark))
}

// clock prints the first half of an ID for people.
func clock(c uint64) string {
	epoch, lsn := event.SplitClock(c)
	s := fmt.Sprintf("%X/%X", uint32(lsn>>32), uint32(lsn))
	if epoch > 0 {
		s = fmt.Sprintf("%d@%s", epoch, s)
	}
	return s
}

// Notice is something worth knowing that is no error: Trimmed, Disconnected
// or Reconnected.
type Notice interface {
	String() string
	notice()
}

// Trimmed says that the first entry read from a partition is not its first
// event, and the one before it is not there to compare: retention has removed
// events. With a start at the beginning they were all missed; behind a
// position nobody can tell whether any of them stood behind it.
type Trimmed struct {
	Key   string         // the partition
	Start event.Position // where reading began
	First event.Position // the first entry there is
	Seq   uint64         // and its seq: so many events less one have been removed
}

// Disconnected says that Redis does not answer. It comes once an outage.
type Disconnected struct{ Err error }

// Reconnected says that Redis answers again.
type Reconnected struct{ After time.Duration }

func (Trimmed) notice()      {}
func (Disconnected) notice() {}
func (Reconnected) notice()  {}

func (n Trimmed) String() string {
	return fmt.Sprintf("%s was trimmed: it begins with seq %d at %v", n.Key, n.Seq, n.First)
}

func (n Disconnected) String() string { return fmt.Sprintf("redis does not answer: %v", n.Err) }

func (n Reconnected) String() string {
	return fmt.Sprintf("redis answers again after %v", n.After.Round(time.Millisecond))
}

// LogNotices is an Options.Notify that writes to a log.
func LogNotices(log *slog.Logger) func(Notice) {
	return func(n Notice) {
		if _, ok := n.(Disconnected); ok {
			log.Warn(n.String())
			return
		}
		log.Info(n.String())
	}
}
