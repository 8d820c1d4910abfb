package consumer

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

// tailEvery is how often Step looks for what it can have missed.
const tailEvery = time.Second

// A TrimmedError says that entries were trimmed before they were read, and none has come behind them: no later event says so.
type TrimmedError struct {
	Key  string         // the partition
	Last event.Position // of the last one
}

func (e *TrimmedError) Error() string {
	return fmt.Sprintf("%s had an entry at %v, which was trimmed before it was read", e.Key, e.Last)
}

// Missing marks errors after which what was made of the events cannot be right any more.
func (e *TrimmedError) Missing() {}

// lookBehind compares the last entry that each partition ever had, when it is below the watermark, with the last that was handed out.
func (r *Reader) lookBehind(ctx context.Context) error {
	infos, err := r.inspectStreams(ctx)
	if err != nil {
		return err
	}
	for i, info := range infos {
		if info == nil {
			continue
		}
		l := r.merge.lanes[i]
		ever, err := event.ParseID(info.LastGeneratedID)
		if err != nil {
			return fmt.Errorf("read %s: %w", l.key, err)
		}
		came := r.start
		if l.last.Compare(came) > 0 {
			came = l.last
		}
		if ever.Commit < r.merge.limit && ever.Compare(came) > 0 && (info.Length == 0 || info.LastEntry.ID != info.LastGeneratedID) {
			return &TrimmedError{l.key, ever}
		}
	}
	return nil
}

// lookIfDue looks behind when a watermark was told of since it last did, at most each second.
func (r *Reader) lookIfDue(ctx context.Context) error {
	if !r.owed || time.Since(r.looked) < tailEvery {
		return nil
	}
	err := r.lookBehind(ctx)
	if err == nil {
		r.looked, r.owed = time.Now(), false
	}
	return err
}

// inspectStreams asks what Redis knows of each lane, through its absences; nil of one that does not exist.
func (r *Reader) inspectStreams(ctx context.Context) (infos []*redis.XInfoStream, err error) {
	err = r.link.try(ctx, func(ctx context.Context) (err error) {
		infos, err = r.askStreams(ask(ctx, 0))
		return err
	})
	return infos, err
}

func (r *Reader) askStreams(ctx context.Context) ([]*redis.XInfoStream, error) {
	cmds := make([]*redis.XInfoStreamCmd, len(r.merge.lanes))
	_, err := r.opts.Client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, l := range r.merge.lanes {
			cmds[i] = pipe.XInfoStream(ctx, l.key)
		}
		return nil
	})
	infos := make([]*redis.XInfoStream, len(cmds))
	for i, cmd := range cmds {
		info, e := cmd.Result()
		switch {
		case e == nil && info != nil:
			infos[i] = info
		case redis.HasErrorPrefix(e, "no such key"):
		case redis.HasErrorPrefix(e, "NOPERM"):
			return nil, fmt.Errorf("look whether %s was trimmed before it was read, which needs the right +xinfo: %w", r.merge.lanes[i].key, e)
		default:
			return nil, fmt.Errorf("look at stream %s: %w", r.merge.lanes[i].key, cmp.Or(e, err))
		}
	}
	return infos, nil
}

// Ranks are the seqs that the partitions had come to where reading begins: 0 where no event was before. Call it before Step. Of a
// partition that has nothing left from before the start, what is left begins with the next one; of one that is empty, Redis says how many
// there were, from 7 on.
func (r *Reader) Ranks(ctx context.Context) (map[string]uint64, error) {
	ranks := map[string]uint64{}
	unknown := false
	for _, l := range r.merge.lanes {
		ranks[l.key] = l.lastSeq
		unknown = unknown || l.lastSeq == 0
	}
	if r.start.IsZero() || !unknown {
		return ranks, nil
	}
	infos, err := r.inspectStreams(ctx)
	if err != nil {
		return nil, err
	}
	for i, l := range r.merge.lanes {
		switch info := infos[i]; {
		case l.lastSeq > 0 || info == nil:
		case info.Length == 0:
			ranks[l.key] = uint64(max(info.EntriesAdded, 0))
		default:
			if seq, ok := event.ParseSeq(info.FirstEntry.Values); ok && seq > 0 {
				ranks[l.key] = seq - 1
			}
		}
	}
	return ranks, nil
}
