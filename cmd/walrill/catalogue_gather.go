package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/catalogue"
	"github.com/walrill/walrill/transform"
)

// cataloguer gathers what the tables of a pipeline publish, by stream.
type cataloguer struct {
	config   *config.Config
	versions []event.Schema
	next     map[string]int // the highest number that was foretold, by stream and type or table
	tables   map[string]*capture.Described
	events   map[string][]catalogue.Event
}

func readVersions(ctx context.Context, client redis.UniversalClient, pipeline string) ([]event.Schema, error) {
	key := event.CatalogueKey(pipeline)
	fields, err := client.HGetAll(ctx, key).Result()
	if err != nil {
		return nil, fmt.Errorf("read %s from Redis: %w", key, err)
	}
	var versions []event.Schema
	for field, text := range fields {
		var s event.Schema
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			return nil, fmt.Errorf("read field %s of %s: %w", field, key, err)
		}
		versions = append(versions, s)
	}
	slices.SortFunc(versions, func(a, b event.Schema) int {
		return cmp.Or(cmp.Compare(a.Name(), b.Name()), cmp.Compare(a.Version, b.Version))
	})
	return versions, nil
}

func (g *cataloguer) gather(mapper *transform.Mapper, tables []capture.Described) error {
	g.events, g.tables = map[string][]catalogue.Event{}, map[string]*capture.Described{}
	var relations []*change.Relation
	for i := range tables {
		g.tables[tables[i].String()] = &tables[i]
		relations = append(relations, tables[i].Relation)
	}
	published, err := mapper.Describe(relations)
	for i := range published {
		g.table(&tables[i], published[i])
	}
	return err
}

func (g *cataloguer) table(t *capture.Described, published []transform.Published) {
	for _, p := range published {
		about := g.tableAbout(p.Where)
		about.Description = cmp.Or(about.Description, t.Comment)
		list := g.events[p.Stream.Name]
		for i := range p.Events {
			list = append(list, g.event(t, &p.Events[i], about))
		}
		if p.Outbox {
			list = append(list, catalogue.Event{Table: t.String(), Key: p.Key, Description: about.Description, Owner: about.Owner, Opaque: true, Published: true})
		}
		g.events[p.Stream.Name] = list
	}
}

// messages adds the logical messages that a stream takes.
func (g *cataloguer) messages(mapper *transform.Mapper, s *config.Stream, stream *catalogue.Stream) {
	if s.Messages.Prefix == "" {
		return
	}
	for _, p := range mapper.DescribeMessages(s.Name) {
		about := declaredAbout(s.Messages.Events, p.Declared)
		e := catalogue.Event{Type: p.Type, Prefix: s.Messages.Prefix, Description: about.Description, Owner: cmp.Or(about.Owner, s.About.Owner)}
		g.number(&e, p.Schema)
		e.Fields = declaredFields(p.Schema.Columns)
		stream.Events = append(stream.Events, e)
	}
	stream.Events = append(stream.Events, catalogue.Event{Prefix: s.Messages.Prefix, Owner: s.About.Owner, Opaque: true, Published: true})
}

// declaredFields are those of what the application writes: any of them may be null.
func declaredFields(columns []event.SchemaColumn) []catalogue.Field {
	fields := catalogue.FieldsOf(columns)
	for i := range fields {
		fields[i].Required = !columns[i].Optional
		if len(columns[i].Fields) > 0 {
			fields[i].Fields = declaredFields(columns[i].Fields)
		}
	}
	return fields
}

func (g *cataloguer) event(t *capture.Described, p *transform.PublishedEvent, table config.About) catalogue.Event {
	about := g.eventAbout(p)
	e := catalogue.Event{Type: p.Type, Table: t.String(),
		Description: cmp.Or(about.Description, table.Description), Owner: cmp.Or(about.Owner, table.Owner)}
	for _, op := range p.On {
		e.On = append(e.On, opName(op))
	}
	if p.Declared != "" {
		return g.declared(&e, p)
	}
	if p.Schema == nil { // an aggregate's truncate
		e.Published = true
		return e
	}
	e.Key = p.Schema.Key
	g.number(&e, p.Schema)
	if p.Built || !slices.Equal(p.On, []change.Op{change.Truncate}) {
		e.Fields = catalogue.FieldsOf(p.Schema.Columns)
		for i := range e.Fields {
			f, c := &e.Fields[i], &p.Schema.Columns[i]
			if child, ok := g.tables[p.Children[f.Name]]; ok {
				annotateChild(f, c, child)
				continue
			}
			annotate(f, c, t, p)
		}
	}
	return e
}

// declared completes an event of an outbox.
func (g *cataloguer) declared(e *catalogue.Event, p *transform.PublishedEvent) catalogue.Event {
	e.Key = p.Schema.Key
	g.number(e, p.Schema)
	e.Fields = declaredFields(p.Schema.Columns)
	return *e
}

// number finds the version that the schema has, or will have.
func (g *cataloguer) number(e *catalogue.Event, s *event.Schema) {
	highest := g.next[s.Name()]
	for i := range g.versions {
		v := &g.versions[i]
		if s.MayBe(v) {
			e.Version, e.Published = v.Version, true
		} else if v.Stream == s.Stream && v.Type == s.Type && v.Table == s.Table {
			e.Earlier = append(e.Earlier, *v)
		}
		if v.SharesNumbers(s) {
			highest = max(highest, v.Version)
		}
	}
	if e.Published {
		return
	}
	if s.Version == 0 {
		s.Version = s.Next(highest)
		g.next[s.Name()] = s.Version
	}
	e.Version = s.Version
}

// annotate adds what the database says of the column that a field comes from.
func annotate(f *catalogue.Field, c *event.SchemaColumn, t *capture.Described, p *transform.PublishedEvent) {
	if f.Column == "" && c.Type != "" {
		f.Column = f.Name
	}
	f.Required = !c.Optional
	if i := t.Column(f.Column); i >= 0 && f.Column != "" {
		a := &t.About[i]
		f.Description = a.Comment
		if f.JSON == "string" && f.Mask == "" {
			f.Enum = a.Enum
		}
		if p.Built {
			f.Nullable = !a.NotNull || !oneSided(p.On)
		} else {
			f.Nullable = !a.NotNull
			f.Required = f.Required && always(t, i, p.On)
		}
	}
	if len(f.Fields) > 0 { // built here, or a row
		f.Nullable = !oneSided(p.On)
	}
	for i := range f.Fields {
		annotate(&f.Fields[i], &c.Fields[i], t, p)
	}
}

// annotateChild adds what the database says of the rows of an aggregate's child.
func annotateChild(f *catalogue.Field, c *event.SchemaColumn, t *capture.Described) {
	f.Nullable, f.Description = false, t.Comment
	changes := &transform.PublishedEvent{On: []change.Op{change.Insert, change.Update, change.Delete}}
	for i := range f.Fields {
		part := &f.Fields[i]
		part.Nullable, part.Required = false, !c.Fields[i].Optional
		switch part.Name {
		case "op":
			part.Enum = []string{string(change.Insert), string(change.Update), string(change.Delete), string(change.Read)}
		case "row":
			for j := range part.Fields {
				annotate(&part.Fields[j], &c.Fields[i].Fields[j], t, changes)
			}
		}
	}
}

// oneSided reports whether a rule for these operations always has the rows that it may name.
func oneSided(on []change.Op) bool {
	for _, rows := range [][]change.Op{{change.Insert, change.Read}, {change.Update}, {change.Delete}} {
		if !slices.ContainsFunc(on, func(op change.Op) bool { return !slices.Contains(rows, op) }) {
			return true
		}
	}
	return false
}

// always reports whether Postgres sends a column with each of the operations. An insert may be half of an
// update that changed the key.
func always(t *capture.Described, column int, on []change.Op) bool {
	for _, op := range on {
		switch {
		case t.Identity == change.IdentityFull, op == change.Read:
		case op == change.Delete && !t.Columns[column].Key,
			op != change.Delete && !t.About[column].Inline:
			return false
		}
	}
	return true
}
