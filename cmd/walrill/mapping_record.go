package main

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/transform"
)

// recordOf is what :meta keeps of a configuration's streams: enough to tell of each table whether another
// configuration maps it the same way; of streams that have more than tables, only whether all are the same.
func recordOf(cfg *config.Config) string {
	list := [][3]string{}
	for _, s := range cfg.Streams {
		more := s
		more.Name, more.Partitions, more.Tables = "", 0, nil
		if config.Fingerprint(more) != config.Fingerprint(config.Stream{}) {
			return config.Fingerprint(cfg.Streams)
		}
		for _, t := range s.Tables {
			list = append(list, [3]string{s.Name, t.Pattern, config.Fingerprint(struct {
				Partitions int
				Table      config.Table
			}{s.Partitions, t})})
		}
	}
	text, _ := json.Marshal(list) // of strings, so it cannot fail
	return string(text)
}

// recordedEntries are the streams and entries that take a table by a recorded mapping. It reports false for a mere fingerprint, which is not comparable.
func recordedEntries(record string, rel *change.Relation) (string, bool) {
	var list [][3]string
	if json.Unmarshal([]byte(record), &list) != nil {
		return "", false
	}
	m := transform.Mapping{}
	for _, e := range list {
		i := slices.IndexFunc(m.Streams, func(s transform.StreamMapping) bool { return s.Name == e[0] })
		if i < 0 {
			i = len(m.Streams)
			m.Streams = append(m.Streams, transform.StreamMapping{Name: e[0]})
		}
		m.Streams[i].Tables = append(m.Streams[i].Tables, transform.TableMapping{Pattern: e[1], Where: e[2]})
	}
	text := ""
	for _, taking := range m.Takings(rel) {
		text += fmt.Sprintf("%q %s ", taking.Stream.Name, taking.Table.Where)
	}
	return text, true
}
