package config

import "strings"

// Nearest is the name that was probably meant, or "" when none is near.
func Nearest(got string, names []string) string {
	best, least := "", max(1, min(len(got)/3, 3))+1
	for _, name := range names {
		if d := distance(plain(got), plain(name)); d < least {
			best, least = name, d
		}
	}
	return best
}

// plain drops what people vary in a name: maxAge, max-age and max_age are one.
func plain(name string) string {
	return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(name))
}

// distance counts the letters inserted, dropped, changed or swapped with
// their neighbour between a and b.
func distance(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			changed := row[j]
			if a[i] != b[j] {
				changed++
			}
			next[j+1] = min(changed, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

// home says where a field belongs that was written elsewhere.
func home(name string) string {
	switch name {
	case "url":
		return "under `source` and `sink`"
	case "slot", "publication", "backfill":
		return "under `source`"
	case "format", "durability", "retention":
		return "under `sink`"
	case "replicas", "fsync", "timeout", "replay_window":
		return "under `sink: durability:`"
	case "max_age", "max_entries", "keep_unread":
		return "under `sink: retention:`"
	case "partitions", "on_error", "tables", "messages", "aggregates", "compatibility":
		return "under a stream's name in `streams`"
	case "key", "columns", "mask", "encrypt", "numbers", "events", "outbox":
		return "under a table's name in `tables`"
	case "description", "owner":
		return "under a stream, a table or a rule of `events`"
	case "include", "exclude", "rename":
		return "under a table's `columns`"
	case "subject":
		return "under a table's `encrypt`"
	case "consistency":
		return "under `views`, or under the name of one"
	case "workers":
		return "under `views`"
	case "master_key":
		return "under `encryption`"
	case "hash", "redact", "truncate", "last":
		return "under a column's name in a table's `mask`"
	case "type", "on", "when", "data", "version", "otherwise":
		return "in a rule of a table's `events`"
	case "aggregatetype", "aggregateid", "payload", "headers", "for":
		return "in a table's `outbox`"
	case "root", "children":
		return "under an aggregate's name in `aggregates`"
	case "prefix":
		return "under a stream's `messages`"
	case "mirror", "query", "affects", "table", "fold", "start", "unmatched", "emit":
		return "under a view's name in `views`"
	case "pipeline", "source", "sink", "streams", "encryption", "views":
		return "at the top of the file, not indented"
	}
	return ""
}

// enumerate lists names for an error: `a`, `b` or `c`, with the word given.
func enumerate(names []string, word string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = "`" + name + "`"
	}
	last := len(quoted) - 1
	if last < 1 {
		return strings.Join(quoted, "")
	}
	return strings.Join(quoted[:last], ", ") + " " + word + " " + quoted[last]
}
