package config

import (
	"strconv"
	"strings"
)

// Stream is a named stream and the tables whose events it holds.
type Stream struct {
	// Name is the stream's, or `*`: then each table has a stream of its own,
	// named as the table without its schema.
	Name string
	// Partitions is how many Redis keys the stream, or each of the streams of
	// `*`, is spread over: 1 to 1024, default 1.
	Partitions int
	// Tables is at least one, in the order written, patterns distinct.
	Tables []Table
	At     Pos
}

// Table is a table of a stream, or all tables of a schema.
type Table struct {
	// Pattern is `schema.table` or `schema.*`, names as Postgres keeps them.
	Pattern string
	// Key is the columns of the ordering key; nil is the replica identity.
	Key []string
	At  Pos
}

// Lookup finds the table's entry in the stream: the one that names it, else
// that of its whole schema.
func (s Stream) Lookup(schema, table string) (Table, bool) {
	var whole Table
	var found bool
	for _, t := range s.Tables {
		switch t.Pattern {
		case schema + "." + table:
			return t, true
		case schema + ".*":
			whole, found = t, true
		}
	}
	return whole, found
}

// keys names the stream's Redis keys as package event does.
func keys(stream string, partitions int) []string {
	if partitions == 1 {
		return []string{stream}
	}
	list := make([]string, partitions)
	for i := range list {
		list[i] = stream + ":" + strconv.Itoa(i)
	}
	return list
}

// claim is a stream's hold on a Redis key.
type claim struct {
	who string // whose the key is, for errors
	at  Pos
}

// collisions reports streams that would write to one Redis key. What a whole
// schema's tables are called is not known before there is a database.
func (r *reader) collisions() {
	taken := map[string]claim{}
	for _, s := range r.cfg.Streams {
		path := join("streams", s.Name)
		if s.Name != "*" {
			r.claim(taken, keys(s.Name, s.Partitions), path, claim{"the stream " + show(s.Name), s.At})
			continue
		}
		for _, t := range s.Tables {
			if _, table, _ := strings.Cut(t.Pattern, "."); table != "*" {
				who := "the own stream of the table " + show(t.Pattern)
				r.claim(taken, keys(table, s.Partitions), join(path+".tables", t.Pattern), claim{who, t.At})
			}
		}
	}
}

// claim takes a stream's keys, unless one of them is another's.
func (r *reader) claim(taken map[string]claim, keys []string, path string, c claim) {
	for _, key := range keys {
		if other, ok := taken[key]; ok {
			r.fail(c.at, path, "%s writes to the Redis key %s, as does %s at %s; give one of them a stream of another name",
				c.who, show(key), other.who, lineOf(other.at))
			return
		}
	}
	for _, key := range keys {
		taken[key] = c
	}
}
