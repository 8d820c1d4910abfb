// Package config owns walrill's one YAML file: which fields there are, their
// defaults, and errors that say where in the file and how to mend it. It also
// owns the type that keeps connection strings out of logs. It opens no
// connection and knows neither Postgres nor Redis beyond the form of their names.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Config is one pipeline's configuration, complete: defaults are filled in
// and everything that needs no database to check has been checked.
type Config struct {
	// Pipeline names the pipeline: 1 to 40 letters, digits, `_`, `.` or `-`.
	Pipeline string
	Source   Source
	Sink     Sink
	// Streams is at least one, in the order written in the file.
	Streams []Stream
	// MasterKey encrypts the keys of data subjects: at least 32 bytes; zero when no table encrypts.
	MasterKey Secret
	// Views are the read models; without any, Store is zero.
	Views Views
}

// Source is the Postgres database that changes come from.
type Source struct {
	// URL is a postgres:// URL or a keyword/value connection string.
	URL URL
	// Slot is the replication slot: 1 to 63 of a-z, 0-9 and `_`. Default
	// walrill_<pipeline>, lower-cased, every other character made `_`.
	Slot string
	// Publication has the form and the default of Slot.
	Publication string
	// Backfill says whether rows that exist already are read. Default initial.
	Backfill Backfill
	// OnSlotLoss says what is done when Postgres has lost the slot. Default stop.
	OnSlotLoss OnSlotLoss
	// BackfillSet is true when the file says backfill, be it the default value.
	BackfillSet bool
}

// Backfill is what happens with the rows that were there before the slot.
type Backfill string

const (
	BackfillInitial Backfill = "initial" // read them once, when the slot is made
	BackfillNever   Backfill = "never"   // publish only what changes from now on
)

// OnSlotLoss is what happens when changes were lost with the slot.
type OnSlotLoss string

const (
	OnSlotLossStop     OnSlotLoss = "stop"     // say so and end
	OnSlotLossBackfill OnSlotLoss = "backfill" // make the slot anew, empty the tables in the streams and read them again
)

// Sink is the Redis that events go to.
type Sink struct {
	// URL has the scheme redis, rediss, unix, redis+sentinel, redis+cluster,
	// rediss+sentinel or rediss+cluster.
	URL        URL
	Format     Format // default fields
	Durability Durability
	Retention  Retention
}

// Format is the form of a stream entry.
type Format string

const (
	FormatFields      Format = "fields"      // the event's parts as fields of the entry
	FormatCloudEvents Format = "cloudevents" // one field, a CloudEvent
	FormatDebezium    Format = "debezium"    // key and value as Debezium Server writes them
)

// Durability is what Redis must have done with an event before its position
// is confirmed to Postgres.
type Durability struct {
	Replicas     int           // replicas that hold it (WAIT); default 0, at most 100
	Fsync        bool          // it is in the append-only file on disk (WAITAOF); default false
	Timeout      time.Duration // how long to wait for both; default 5s, above 0
	ReplayWindow time.Duration // how long the confirmed position is held back; default 0
}

// Retention is when entries are trimmed from the streams. With both limits 0, as without `retention` in the file,
// nothing is trimmed.
type Retention struct {
	MaxAge     time.Duration // since the commit; default 0, no limit
	MaxEntries int64         // of each partition; default 0, no limit
	KeepUnread bool          // never trim past the slowest consumer group; default true
}

const (
	defaultTimeout = 5 * time.Second
	maxPartitions  = 1024
	maxReplicas    = 100
	maxEntries     = 1 << 53 // far above any stream, and exact in JSON
)

// maxFile bounds the file: the YAML parser's time grows with the square of
// its size, and no configuration comes near.
const maxFile = 1 << 20

// Load reads and checks the file at path. env looks up the variables of
// `${VAR}`, as os.LookupEnv does; nil has none. The error is Errors when
// the file could be read, and matches fs.ErrNotExist when there is none.
func Load(path string, env func(string) (string, bool)) (*Config, error) {
	return load(path, newReader(env))
}

// LoadMapping is Load for those who connect to nothing: the addresses are left out, so that their variables
// need not be set.
func LoadMapping(path string, env func(string) (string, bool)) (*Config, error) {
	r := newReader(env)
	r.unconnected = true
	return load(path, r)
}

func load(path string, r *reader) (*Config, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w; name another file with `-c FILE`, or let `walrill init` propose one", path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; name another file with `-c FILE`", unreadable(path, err))
	}
	return r.parse(path, data)
}

// unreadable says of a file once which it is and why it cannot be read.
func unreadable(path string, err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return fmt.Errorf("%s: cannot be read: %w", path, err)
}

// Parse is Load with the file's content in hand; name is what errors call the
// file. The error is Errors, all that is wrong with the file in its order.
func Parse(name string, data []byte, env func(string) (string, bool)) (*Config, error) {
	return newReader(env).parse(name, data)
}

func (r *reader) parse(name string, data []byte) (*Config, error) {
	if root := r.tree(name, data); root != nil {
		r.config(root)
	}
	return r.finish()
}
