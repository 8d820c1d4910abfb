package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/sink"
)

// backfillStore keeps the states of backfills in the hash :backfill.
type backfillStore struct {
	client   redis.UniversalClient
	pipeline string
	writer   atomic.Pointer[sink.Publisher] // whose backfills are saved; nil: a command's
	config   atomic.Pointer[config.Config]  // says which columns are masked; nil: a command's
}

// Load implements capture.BackfillStore. A state whose rows are above the watermark on top of
// :commits speaks of rows that Redis has lost: it was written after that watermark.
func (s *backfillStore) Load(ctx context.Context) (map[string]capture.BackfillRecord, error) {
	fields, err := s.client.HGetAll(ctx, event.BackfillKey(s.pipeline)).Result()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", event.BackfillKey(s.pipeline), err)
	}
	if len(fields) == 0 {
		return nil, nil
	}
	meta, err := readMeta(ctx, s.client, s.pipeline)
	if err != nil {
		return nil, err
	}
	watermark, _, err := consumer.Watermark(ctx, s.client, s.pipeline)
	if err != nil {
		return nil, err
	}
	records := map[string]capture.BackfillRecord{}
	for field, text := range fields {
		table, isRequest := event.BackfillField(field)
		record := records[table]
		if isRequest {
			var r event.BackfillRequest
			err = json.Unmarshal([]byte(text), &r)
			request := capture.BackfillRequest(r)
			record.Request = &request
		} else {
			var b event.Backfill
			err = json.Unmarshal([]byte(text), &b)
			state := capture.BackfillState(b)
			if s.hides(table, state) && state.State == capture.BackfillRunning {
				state.Rows, state.Bytes = 0, 0 // it starts over
			}
			record.State, record.Lost = &state, lostRows(b, meta.Epoch, watermark)
		}
		if err != nil {
			return nil, fmt.Errorf("read field %s of %s: %w", field, event.BackfillKey(s.pipeline), err)
		}
		records[table] = record
	}
	return records, nil
}

func lostRows(b event.Backfill, epoch uint8, watermark uint64) bool {
	if b.LSN == "" {
		return false
	}
	if b.Epoch != epoch {
		return b.State != capture.BackfillDone // half of it would be of another history
	}
	lsn, err := change.ParseLSN(b.LSN)
	return err != nil || event.Clock(b.Epoch, uint64(lsn)) > watermark
}

// Save implements capture.BackfillStore. It fails when another instance has taken over, which goes by what it has read.
func (s *backfillStore) Save(ctx context.Context, table string, state capture.BackfillState) error {
	if state.LSN+state.End != "" {
		meta, err := readMeta(ctx, s.client, s.pipeline)
		if err != nil {
			return err
		}
		state.Epoch = meta.Epoch
		for _, place := range []*string{&state.End, &state.Complete} {
			if *place != "" && !strings.Contains(*place, "@") { // one that has its epoch was recorded before
				*place = fmt.Sprintf("%d@%s", meta.Epoch, *place)
			}
		}
	}
	if s.hides(table, state) {
		state.Part, state.After, state.Read, state.Moved = "", nil, nil, nil
	}
	text, err := json.Marshal(event.Backfill(state))
	if err != nil {
		return err
	}
	if err := s.write(ctx, table, text); err != nil {
		return fmt.Errorf("write %s: %w", event.BackfillKey(s.pipeline), err)
	}
	return nil
}

// hides reports whether the place that a backfill has come to is not recorded: it is values of a column
// that is masked. Another session then reads the table from its beginning.
func (s *backfillStore) hides(table string, state capture.BackfillState) bool {
	cfg := s.config.Load()
	return cfg != nil && slices.ContainsFunc(state.Key, func(column string) bool { return cfg.Hides(table, column) })
}

func (s *backfillStore) write(ctx context.Context, table string, text []byte) error {
	writer, claim := "", ""
	if p := s.writer.Load(); p != nil {
		writer, claim = p.Claimed()
	}
	if claim == "" { // not streaming yet: the table is planned
		return s.client.HSet(ctx, event.BackfillKey(s.pipeline), table, text).Err()
	}
	return s.client.Watch(ctx, func(tx *redis.Tx) error {
		held, err := tx.HGetAll(ctx, writer).Result()
		if err != nil {
			return err
		}
		if held[event.ClaimField] != claim {
			return sink.ErrFenced{Key: writer, Held: held[event.ClaimField]}
		}
		_, err = tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			return pipe.HSet(ctx, event.BackfillKey(s.pipeline), table, text).Err()
		})
		return err
	}, writer)
}
