package main

import (
	"context"
	"slices"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/projector"
	"github.com/walrill/walrill/transform"
)

func addFold(view *projector.View, f config.Fold) {
	view.Streams, view.Now, view.Unmatched = f.Streams, f.Now, f.Unmatched
	for _, c := range f.Table {
		view.Table = append(view.Table, projector.Column{Name: c.Name, Type: c.Type})
	}
	for _, e := range f.Events {
		view.Fold = append(view.Fold, projector.FoldEvent{Type: e.Type, SQL: e.SQL, Where: e.At.String()})
	}
}

func emitOf(e config.Emit) *projector.Emit {
	if e.Stream == "" {
		return nil
	}
	out := &projector.Emit{Stream: e.Stream, Compatibility: event.Compatibility(e.Compatibility)}
	for _, x := range e.Events {
		ev := projector.EmitEvent{Type: x.Type, When: x.When, Key: x.Key, Version: x.Version, Where: x.At.String()}
		for _, m := range x.Data {
			ev.Data = append(ev.Data, projector.EmitMember(m))
		}
		out.Events = append(out.Events, ev)
	}
	return out
}

// eventTypesOf lists what the streams carry: what the mapping makes of the tables as they are now, and where the
// application chooses the types itself.
func eventTypesOf(ctx context.Context, cfg *config.Config) ([]projector.EventType, error) {
	rels, mapper, err := mappedTables(ctx, cfg)
	if err != nil {
		return nil, err
	}
	unfit := false
	rels = slices.DeleteFunc(rels, func(rel *change.Relation) bool {
		_, err := mapper.Check(rel)
		unfit = unfit || err != nil // that is capture's to report
		return err != nil
	})
	published, err := mapper.Describe(rels)
	if err != nil {
		return nil, err
	}
	list := []projector.EventType{}
	for i, rel := range rels {
		for _, p := range published[i] {
			if p.Outbox {
				list = append(list, projector.EventType{Stream: p.Stream.Name, Table: rel.String(), Change: true})
			}
			for i := range p.Events {
				list = append(list, eventTypeOf(p.Stream.Name, rel, &p.Events[i]))
			}
		}
	}
	for _, s := range cfg.Streams {
		if s.Messages.Prefix != "" || unfit { // of a table that does not fit any type may come: no fold is to blame for naming it
			list = append(list, projector.EventType{Stream: s.Name, Change: true})
		}
	}
	return list, nil
}

func eventTypeOf(stream string, rel *change.Relation, e *transform.PublishedEvent) projector.EventType {
	t := projector.EventType{Type: e.Type, Stream: stream, Table: rel.String(), Read: slices.Contains(e.On, change.Read),
		Change: slices.ContainsFunc(e.On, func(op change.Op) bool { return op != change.Read })}
	if e.Schema == nil {
		return t
	}
	t.Fields = eventFields(e.Schema.Columns)
	if !e.Built && e.Aggregate == "" && slices.Contains(e.On, change.Update) {
		for _, c := range e.Schema.Columns {
			t.Old = append(t.Old, c.Name)
		}
	}
	return t
}

func eventFields(columns []event.SchemaColumn) []projector.EventField {
	fields := make([]projector.EventField, len(columns))
	for i, c := range columns {
		fields[i].Name = c.Name
		if c.Fields != nil {
			fields[i].Fields = eventFields(c.Fields)
		}
	}
	return fields
}
