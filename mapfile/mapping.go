// Package mapfile turns what the configuration file says of events into what the mapper and readers want. It puts config and
// transform together, which know nothing of each other.
package mapfile

import (
	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/transform"
)

// Mapping is the configuration's streams as transform wants them.
func Mapping(cfg *config.Config) transform.Mapping {
	m := transform.Mapping{Envelope: cfg.Sink.Format == config.FormatDebezium, Parked: event.ParkedKey(cfg.Pipeline)}
	for _, s := range cfg.Streams {
		stream := transform.StreamMapping{Name: s.Name, Partitions: s.Partitions, Park: s.Park, Where: s.At.String(),
			Compatibility: event.Compatibility(s.Compatibility),
			Messages:      transform.Messages{Prefix: s.Messages.Prefix, Events: declaredOf(s.Messages.Events), Where: s.Messages.At.String()}}
		for _, t := range s.Tables {
			stream.Tables = append(stream.Tables, tableMappingOf(t))
		}
		for _, a := range s.Aggregates {
			stream.Aggregates = append(stream.Aggregates, aggregateOf(a))
		}
		m.Streams = append(m.Streams, stream)
	}
	return m
}

func aggregateOf(a config.Aggregate) transform.AggregateMapping {
	m := transform.AggregateMapping{Name: a.Name, Root: tableMappingOf(a.Root), Version: a.Version,
		Compatibility: event.Compatibility(a.Compatibility), Where: a.At.String()}
	for _, c := range a.Children {
		m.Children = append(m.Children, transform.ChildMapping{Name: c.Name, TableMapping: tableMappingOf(c.Table), One: c.One})
	}
	return m
}

func tableMappingOf(t config.Table) transform.TableMapping {
	m := transform.TableMapping{
		Pattern: t.Pattern,
		Key:     t.Key,
		KeyExpr: exprOf(t.KeyExpr),
		Columns: transform.Columns{
			Include: namesOf(t.Columns.Include),
			Exclude: namesOf(t.Columns.Exclude),
		},
		NumbersAsText: t.NumbersAsText,
		Where:         t.At.String(),
		KeyWhere:      t.KeyAt.String(),
	}
	for _, r := range t.Columns.Rename {
		m.Columns.Rename = append(m.Columns.Rename, transform.Rename{From: nameOf(r.From), To: r.To})
	}
	for _, c := range t.Masks {
		m.Masks = append(m.Masks, transform.Mask{Column: nameOf(c.Column), Kind: transform.MaskKind(c.Kind),
			Key: []byte(c.Key.Reveal()), Text: c.Text, Keep: c.Keep})
	}
	if e := t.Encrypt; e != nil {
		m.Encrypt = &transform.Encrypt{Columns: namesOf(e.Columns), Kind: e.Kind, Subject: nameOf(e.Subject)}
	}
	for _, r := range t.Events {
		m.Rules = append(m.Rules, ruleOf(r))
	}
	if o := t.Outbox; o != nil {
		m.Where = o.At.String()
		m.Outbox = &transform.Outbox{ID: nameOf(o.ID), AggregateType: nameOf(o.AggregateType), AggregateID: nameOf(o.AggregateID),
			Type: nameOf(o.Type), Payload: nameOf(o.Payload), Headers: nameOf(o.Headers), For: o.For, Read: o.Read, Events: declaredOf(o.Events),
			Delete: bool(o.Delete)}
	}
	return m
}

func declaredOf(list []config.Declared) []transform.Declared {
	var out []transform.Declared
	for _, d := range list {
		out = append(out, transform.Declared{Type: d.Type, Columns: declaredColumns(d.Data), Version: d.Version, Where: d.At.String()})
	}
	return out
}

func declaredColumns(members []config.DeclaredMember) []event.SchemaColumn {
	var list []event.SchemaColumn
	for _, m := range members {
		list = append(list, event.SchemaColumn{Name: m.Name, JSON: m.JSON, Optional: m.Optional, Fields: declaredColumns(m.Members)})
	}
	return list
}

func nameOf(n config.Name) transform.Name { return transform.Name{Name: n.Name, Where: n.At.String()} }

func namesOf(names []config.Name) []transform.Name {
	var list []transform.Name
	for _, n := range names {
		list = append(list, nameOf(n))
	}
	return list
}

func ruleOf(r config.Rule) transform.Rule {
	ops := map[config.On]change.Op{config.OnInsert: change.Insert, config.OnUpdate: change.Update, config.OnDelete: change.Delete,
		config.OnTruncate: change.Truncate, config.OnRead: change.Read}
	rule := transform.Rule{Type: r.Type, When: exprOf(r.When), Version: r.Version, Otherwise: r.Otherwise, Where: r.At.String()}
	for _, on := range r.On {
		rule.On = append(rule.On, ops[on])
	}
	if r.Data != nil {
		data := payloadOf(*r.Data)
		rule.Data = &data
	}
	for _, u := range r.Upcasts {
		rule.Upcasts = append(rule.Upcasts, transform.Upcast{From: u.From, Set: membersOf(u.Set), Remove: namesOf(u.Remove), Where: u.At.String()})
	}
	return rule
}

func payloadOf(p config.Payload) transform.Payload {
	kinds := map[config.PayloadKind]transform.PayloadKind{config.PayloadExpr: transform.PayloadExpr, config.PayloadJSON: transform.PayloadJSON,
		config.PayloadObject: transform.PayloadObject, config.PayloadList: transform.PayloadList}
	out := transform.Payload{Kind: kinds[p.Kind], Expr: exprOf(p.Expr), JSON: p.JSON}
	out.Object = membersOf(p.Object)
	for _, e := range p.List {
		out.List = append(out.List, payloadOf(e))
	}
	return out
}

func membersOf(members []config.Member) []transform.PayloadMember {
	var list []transform.PayloadMember
	for _, m := range members {
		list = append(list, transform.PayloadMember{Name: m.Name, Value: payloadOf(m.Value)})
	}
	return list
}

func exprOf(e *config.Expr) *transform.Expr {
	if e == nil {
		return nil
	}
	return &transform.Expr{Text: e.Text, Where: func(character int) string { return e.Place(character).String() }}
}
