package main

import (
	"testing"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
)

func TestMappingRecord(t *testing.T) {
	orders := config.Table{Pattern: "public.orders", Key: []string{"id"}}
	keyed := orders
	keyed.Key = []string{"customer"}
	stream := func(name string, partitions int, tables ...config.Table) config.Stream {
		return config.Stream{Name: name, Partitions: partitions, Tables: tables}
	}
	record := func(streams ...config.Stream) string { return recordOf(&config.Config{Streams: streams}) }
	before := record(stream("orders", 2, orders), stream("*", 1, config.Table{Pattern: "shop.*"}))
	entries := func(record, schema, table string) string {
		text, ok := recordedEntries(record, &change.Relation{Namespace: schema, Name: table})
		if !ok {
			t.Errorf("%s is no record", record)
		}
		return text
	}
	for name, tc := range map[string]struct {
		record string
		same   bool
	}{
		"itself":               {before, true},
		"another table":        {record(stream("orders", 2, config.Table{Pattern: "public.lines"}, orders)), true},
		"a stream beside":      {record(stream("lines", 2, config.Table{Pattern: "public.lines"}), stream("orders", 2, orders)), true},
		"another key":          {record(stream("orders", 2, keyed)), false},
		"more partitions":      {record(stream("orders", 3, orders)), false},
		"a second stream":      {record(stream("orders", 2, orders), stream("audit", 1, orders)), false},
		"another stream first": {record(stream("orders", 2, config.Table{Pattern: "public.*"})), false},
	} {
		if same := entries(tc.record, "public", "orders") == entries(before, "public", "orders"); same != tc.same {
			t.Errorf("%s: the same: %t", name, same)
		}
	}
	if entries(before, "shop", "any") == "" || entries(before, "public", "lines") != "" {
		t.Error("a pattern takes the wrong tables")
	}
	// What aggregates and parked keys make of one table's changes hangs on others'.
	parks := stream("orders", 2, orders)
	parks.Park = true
	if _, ok := recordedEntries(record(parks), &change.Relation{}); ok {
		t.Error("tables of a stream that parks are compared one by one")
	}
}
