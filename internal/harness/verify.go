package harness

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/redis/go-redis/v9"
)

// Pipeline is what a pipeline was told to do, as far as Verify has to know it.
type Pipeline struct {
	Name     string
	DBURL    string
	RedisURL string // a single server
	Streams  []StreamSpec
	// Backfilled: the tables had rows before, which the streams have as op r.
	Backfilled bool
	// Gaps: changes were lost with a slot, so entries presume rows that the streams do not have, until they are repaired.
	Gaps bool
}

// StreamSpec is a stream of the configuration, in its order. Its tables are
// keyed by their primary keys, or else by the columns of a unique index.
type StreamSpec struct {
	Name       string
	Partitions int
	Tables     []string // such as public.orders
}

// Keys are the stream's Redis keys.
func (s StreamSpec) Keys() []string {
	if s.Partitions <= 1 {
		return []string{s.Name}
	}
	var keys []string
	for i := range s.Partitions {
		keys = append(keys, fmt.Sprintf("%s:%d", s.Name, i))
	}
	return keys
}

// partition is where entries of a key belong.
func (s StreamSpec) partition(key string) int {
	return int(crc32.ChecksumIEEE([]byte(key)) % uint32(max(s.Partitions, 1)))
}

// Watermark is the LSN on top of the pipeline's :commits, 0 when there is none.
func (p Pipeline) Watermark(ctx context.Context) (uint64, error) {
	client, err := p.redis()
	if err != nil {
		return 0, err
	}
	defer client.Close()
	top, err := client.XRevRangeN(ctx, "walrill:{"+p.Name+"}:commits", "+", "-", 1).Result()
	if err != nil || len(top) == 0 {
		return 0, err
	}
	at, err := parseEntryID(top[0].ID)
	return at.commit & (1<<56 - 1), err
}

// Published is the number of entries in the streams.
func (p Pipeline) Published(ctx context.Context) (n int64, err error) {
	client, err := p.redis()
	if err != nil {
		return 0, err
	}
	defer client.Close()
	var lengths []*redis.IntCmd
	_, err = client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, s := range p.Streams {
			for _, key := range s.Keys() {
				lengths = append(lengths, pipe.XLen(ctx, key))
			}
		}
		return nil
	})
	for _, length := range lengths {
		n += length.Val()
	}
	return n, err
}

func (p Pipeline) redis() (*redis.Client, error) {
	o, err := redis.ParseURL(p.RedisURL)
	if err != nil {
		return nil, err
	}
	o.MaxRetries, o.DialerRetries = -1, 1
	return redis.NewClient(o), nil
}

// Verification is what Verify has looked at.
type Verification struct {
	Transactions, Entries, Rows int
}

// Verify compares everything in the streams with what happened in the database
// as the oracle tells it, from the pipeline's first transaction on, and with
// what is in the tables now. Nobody may write meanwhile. That is:
//
//   - in each partition the seqs are 1, 2, 3 …, the IDs ascend, and the keys are
//     those that belong there;
//   - each transaction is there once, in commit order, with its commit LSN as
//     the first half of its entries' IDs and 1, 2, 3 … as the second, over all
//     streams together;
//   - its entries say what it did: operations, keys and the value of each column;
//   - the catalogue has each entry's schema, and that names the entry's columns;
//   - applying the entries one by one gives the tables.
//
// The error says what differs, the first few of each kind.
func (p Pipeline) Verify(ctx context.Context, history []OracleTx) (Verification, error) {
	v := &verifier{pipeline: p, streams: map[string]StreamSpec{}}
	for _, s := range p.Streams {
		v.streams[s.Name] = s
	}
	err := v.run(ctx, history)
	return v.seen, err
}

// VerifyTables is Verify without the history: each partition must be in order and applying the entries must give
// the tables.
func (p Pipeline) VerifyTables(ctx context.Context) (Verification, error) {
	v := &verifier{pipeline: p, streams: map[string]StreamSpec{}}
	for _, s := range p.Streams {
		v.streams[s.Name] = s
	}
	entries, err := v.readStreams(ctx)
	if err != nil {
		return v.seen, fmt.Errorf("read the streams: %w", err)
	}
	v.seen.Entries = len(entries)
	if v.tables, err = readShapes(ctx, p); err != nil {
		return v.seen, fmt.Errorf("read the catalogue: %w", err)
	}
	if err := v.compareTables(ctx, v.fold(entries)); err != nil {
		return v.seen, fmt.Errorf("read the tables: %w", err)
	}
	return v.seen, errors.Join(v.errs...)
}

// verifier is one Verify.
type verifier struct {
	pipeline Pipeline
	streams  map[string]StreamSpec
	tables   map[string]*tableShape
	seen     Verification
	errs     []error
}

func (v *verifier) run(ctx context.Context, history []OracleTx) error {
	entries, err := v.readStreams(ctx)
	if err != nil {
		return fmt.Errorf("read the streams: %w", err)
	}
	v.seen.Entries = len(entries)
	if err := v.checkSchemas(ctx, entries); err != nil {
		return fmt.Errorf("read the schemas: %w", err)
	}
	if v.tables, err = readShapes(ctx, v.pipeline); err != nil {
		return fmt.Errorf("read the catalogue: %w", err)
	}
	expected, err := v.expect(ctx, history)
	if err != nil {
		return fmt.Errorf("prepare what is expected: %w", err)
	}
	v.seen.Transactions = len(expected)
	v.compare(groupByCommit(v.withoutReads(entries)), expected)
	if err := v.compareTables(ctx, v.fold(entries)); err != nil {
		return fmt.Errorf("read the tables: %w", err)
	}
	return errors.Join(v.errs...)
}

// maxErrors is how many differences are told. One makes many.
const maxErrors = 10

func (v *verifier) errorf(format string, args ...any) {
	if len(v.errs) < maxErrors {
		v.errs = append(v.errs, fmt.Errorf(format, args...))
	}
}

// readStreams reads every partition, checks what can be checked within one, and
// returns all entries in the order of their positions.
func (v *verifier) readStreams(ctx context.Context) ([]streamEntry, error) {
	client, err := v.pipeline.redis()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var all []streamEntry
	for _, s := range v.pipeline.Streams {
		for i, key := range s.Keys() {
			entries, err := readStream(ctx, client, key)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			for n := range entries {
				entries[n].stream, entries[n].partition = s.Name, i
			}
			v.checkPartition(s, key, entries)
			all = append(all, entries...)
		}
	}
	slices.SortStableFunc(all, func(a, b streamEntry) int { return a.at.compare(b.at) })
	return all, nil
}

func (v *verifier) checkPartition(s StreamSpec, key string, entries []streamEntry) {
	var last entryID
	for n, e := range entries {
		if e.at.compare(last) <= 0 {
			v.errorf("%s: entry %v comes after %v", key, e.at, last)
		}
		last = e.at
		if e.seq != uint64(n+1) {
			v.errorf("%s: entry %v has seq %d, it is the %d.", key, e.at, e.seq, n+1)
			return
		}
		if want := s.partition(e.key); e.op != OpTruncate && want != e.partition {
			v.errorf("%s: entry %v with key %q belongs to partition %d", key, e.at, e.key, want)
		}
	}
}
