package transform

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

var update = flag.Bool("update", false, "rewrite the scenarios' answers")

// TestScenarios runs the files in testdata/scenarios. A file is a
// conversation: lines that tell the mapper something, and behind each, after
// "> ", what it answered. `go test ./transform -update` writes the answers anew.
//
//	stream NAME PARTITIONS TABLE[=KEY,KEY]...
//	rule TYPE OP,OP [when=CONDITION] [otherwise] [NAME=EXPRESSION]... [data=EXPRESSION]
//	mask COLUMN hash|redact|truncate|last [KEY, TEXT or NUMBER]
//	encrypt COLUMN,COLUMN KIND=COLUMN
//	subject NAME BYTE|forgotten, the key of a subject, made of a byte
//	rows [include=COLUMNS] [exclude=COLUMNS] [rename=FROM:TO,FROM:TO] [numbers=string] [key=EXPRESSION]
//	outbox [COLUMN=NAME]... [for=TYPE,TYPE] [read]
//	messages PREFIX, for the last stream
//	aggregate NAME ROOT=KEY,KEY [CHILD=TABLE=KEY,KEY | CHILD:one=TABLE=KEY,KEY]..., for the last stream
//	limit BYTES of what is gathered
//	table NAME IDENTITY[=INDEX COLUMNS] [pk=COLUMNS] NAME:TYPE...
//	check TABLE
//	schemas TABLE, of the events that its rules make
//	envelope, for Mapping.Envelope
//	begin LSN XID
//	insert|read TABLE NEW..., delete TABLE OLD..., update TABLE NEW... [| OLD...], truncate TABLE, commit,
//	message PREFIX CONTENT
//
// mask, encrypt, rule, rows and outbox are for the last table of the last stream. A value is a word or a Go string; NULL, ? is one that was not sent, - one outside the tuple.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/scenarios/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScenario(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// scenario is the state of a file that is being run.
type scenario struct {
	t       *testing.T
	mapping Mapping
	mapper  *Mapper
	tables  map[string]*change.Relation
	keys    map[string][]byte // of subjects; nil is one that was forgotten
}

func runScenario(t *testing.T, file string) string {
	s := &scenario{t: t, tables: map[string]*change.Relation{}}
	var out strings.Builder
	for line := range strings.Lines(file) {
		if strings.HasPrefix(line, "> ") {
			continue
		}
		out.WriteString(line)
		words := splitWords(t, line)
		if len(words) == 0 {
			continue
		}
		for answer := range strings.Lines(s.run(words[0], words[1:])) {
			out.WriteString("> " + answer)
		}
	}
	return out.String()
}

// splitWords splits a line at spaces; a word may be a Go string. What follows # is a remark.
func splitWords(t *testing.T, line string) []string {
	var words []string
	for {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			return words
		}
		if line[0] == '"' || line[0] == '`' {
			q, err := strconv.QuotedPrefix(line)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			words, line = append(words, q), line[len(q):]
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		words, line = append(words, word), rest
	}
}

func (s *scenario) run(command string, args []string) string {
	switch command {
	case "stream":
		s.stream(args)
		return ""
	case "table":
		s.table(args)
		return ""
	case "envelope":
		s.mapping.Envelope = true
		return ""
	case "rule":
		s.rule(args)
		return ""
	case "mask":
		s.mask(args)
		return ""
	case "encrypt":
		s.encrypt(args)
		return ""
	case "subject":
		s.subject(args)
		return ""
	case "rows":
		s.rows(args)
		return ""
	case "aggregate":
		s.aggregate(args)
		return ""
	case "outbox":
		s.outbox(args)
		return ""
	case "messages":
		s.mapping.Streams[len(s.mapping.Streams)-1].Messages = Messages{Prefix: args[0], Where: "w.yaml:messages"}
		return ""
	}
	if s.mapper == nil {
		m, err := New(s.mapping, 0)
		if err != nil {
			return err.Error() + "\n"
		}
		s.mapper = m
	}
	switch command {
	case "new":
		return ""
	case "limit":
		s.mapper.gathered.limit, _ = strconv.Atoi(args[0])
		return ""
	case "commit":
		return eventLines(s.t, s.mapper.Commit())
	case "begin":
		lsn, err := change.ParseLSN(args[0])
		xid, err2 := strconv.Atoi(args[1])
		if err != nil || err2 != nil {
			s.t.Fatal(err, err2)
		}
		s.mapper.Begin(change.Tx{CommitLSN: lsn, XID: uint32(xid), Time: time.Unix(0, 0).UTC()})
		return ""
	case "check":
		streams, err := s.mapper.Check(s.tables[args[0]])
		return streamNames(streams) + errorLine(err)
	case "schemas":
		return s.schemas(args[0])
	case "streams":
		return streamNames(s.mapper.Streams())
	}
	return s.change(command, args)
}

func errorLine(err error) string {
	if err == nil {
		return ""
	}
	return "error: " + err.Error() + "\n"
}

func (s *scenario) schemas(name string) string {
	t, err := s.mapper.table(s.tables[name])
	if err != nil {
		return errorLine(err)
	}
	var b strings.Builder
	seen := map[*event.Schema]bool{}
	for _, r := range t.routes[0].rules.rules {
		if !seen[r.schema] {
			fmt.Fprintf(&b, "%s key=%s%s\n", r.schema.Name(), strings.Join(r.schema.Key, ","), members(r.schema.Columns))
		}
		seen[r.schema] = true
	}
	return b.String()
}

func members(columns []event.SchemaColumn) string {
	var b strings.Builder
	for _, c := range columns {
		fmt.Fprintf(&b, " %s:%s", c.Name, c.JSON)
		if c.Optional {
			b.WriteByte('?')
		}
		if c.Column != "" {
			b.WriteString("=" + c.Column)
		}
		if c.Mask != "" {
			b.WriteString("/" + c.Mask)
		}
		if c.Fields != nil {
			fmt.Fprintf(&b, "{%s}", members(c.Fields))
		}
	}
	return b.String()
}

func streamNames(streams []*event.Stream) string {
	var b strings.Builder
	for _, s := range streams {
		fmt.Fprintf(&b, "%s in %d\n", s.Name, len(s.Keys))
	}
	return b.String()
}

func (s *scenario) stream(args []string) {
	partitions, err := strconv.Atoi(args[1])
	if err != nil {
		s.t.Fatal(err)
	}
	m := StreamMapping{Name: args[0], Partitions: partitions, Where: fmt.Sprintf("w.yaml:%d", 10*len(s.mapping.Streams)+1)}
	for i, arg := range args[2:] {
		pattern, key, _ := strings.Cut(arg, "=")
		table := TableMapping{Pattern: pattern, Where: fmt.Sprintf("w.yaml:%d", 10*len(s.mapping.Streams)+2+i)}
		if key != "" {
			table.Key, table.KeyWhere = strings.Split(key, ","), table.Where+":14"
		}
		m.Tables = append(m.Tables, table)
	}
	s.mapping.Streams = append(s.mapping.Streams, m)
}

// lastTable is what rule, rows, mask and outbox are about: the root of the last stream's last aggregate, or its last table.
func (s *scenario) lastTable() *TableMapping {
	stream := &s.mapping.Streams[len(s.mapping.Streams)-1]
	if n := len(stream.Aggregates); n > 0 {
		return &stream.Aggregates[n-1].Root
	}
	return &stream.Tables[len(stream.Tables)-1]
}

// exprAt is an expression that says its first character's place as w.yaml:LINE:COLUMN with column 1.
func exprAt(what, text string) *Expr {
	return &Expr{Text: text, Where: func(character int) string { return fmt.Sprintf("%s:%d", what, character+1) }}
}

func (s *scenario) rule(args []string) {
	r := Rule{Type: args[0]}
	for op := range strings.SplitSeq(args[1], ",") {
		r.On = append(r.On, opNames[op])
	}
	for _, arg := range args[2:] {
		name, text, _ := strings.Cut(s.unquote(arg), "=")
		switch name {
		case "otherwise":
			r.Otherwise = true
		case "when":
			r.When = exprAt(r.Type+".when", text)
		case "data":
			r.Data = &Payload{Expr: exprAt(r.Type+".data", text)}
		default:
			if r.Data == nil {
				r.Data = &Payload{Kind: PayloadObject}
			}
			r.Data.Object = append(r.Data.Object, PayloadMember{name, Payload{Expr: exprAt(r.Type+"."+name, text)}})
		}
	}
	t := s.lastTable()
	t.Rules = append(t.Rules, r)
}

func (s *scenario) mask(args []string) {
	m := Mask{Column: Name{args[0], "w.yaml:mask." + args[0]}, Kind: MaskKind(args[1])}
	if len(args) > 2 {
		m.Key, m.Text = []byte(s.unquote(args[2])), s.unquote(args[2])
		m.Keep, _ = strconv.Atoi(args[2])
	}
	t := s.lastTable()
	t.Masks = append(t.Masks, m)
}

func (s *scenario) encrypt(args []string) {
	kind, column, _ := strings.Cut(args[1], "=")
	e := &Encrypt{Kind: kind, Subject: Name{column, "w.yaml:subject"}}
	for name := range strings.SplitSeq(args[0], ",") {
		e.Columns = append(e.Columns, Name{name, "w.yaml:encrypt." + name})
	}
	s.lastTable().Encrypt = e
}

func (s *scenario) subject(args []string) {
	if s.keys == nil {
		s.keys = map[string][]byte{}
	}
	s.keys[s.unquote(args[0])] = nil
	if b, err := strconv.Atoi(args[1]); err == nil {
		s.keys[s.unquote(args[0])] = bytes.Repeat([]byte{byte(b)}, event.SubjectKeySize)
	}
}

func (s *scenario) rows(args []string) {
	t := s.lastTable()
	for _, arg := range args {
		name, value, _ := strings.Cut(s.unquote(arg), "=")
		for part := range strings.SplitSeq(value, ",") {
			from, to, _ := strings.Cut(part, ":")
			column := Name{from, "w.yaml:" + name}
			switch name {
			case "include":
				t.Columns.Include = append(t.Columns.Include, column)
			case "exclude":
				t.Columns.Exclude = append(t.Columns.Exclude, column)
			case "rename":
				t.Columns.Rename = append(t.Columns.Rename, Rename{column, to})
			case "numbers":
				t.NumbersAsText = value == "string"
			}
		}
		if name == "key" {
			t.KeyExpr = exprAt("key", value)
		}
	}
}

func (s *scenario) aggregate(args []string) {
	table := func(text string) TableMapping {
		pattern, key, _ := strings.Cut(text, "=")
		return TableMapping{Pattern: pattern, Key: strings.Split(key, ","), Where: "w.yaml:" + pattern, KeyWhere: "w.yaml:" + pattern + ".key"}
	}
	a := AggregateMapping{Name: args[0], Root: table(args[1]), Where: "w.yaml:" + args[0]}
	for _, arg := range args[2:] {
		name, text, _ := strings.Cut(arg, "=")
		name, one := strings.CutSuffix(name, ":one")
		a.Children = append(a.Children, ChildMapping{Name: name, TableMapping: table(text), One: one})
	}
	last := &s.mapping.Streams[len(s.mapping.Streams)-1]
	last.Aggregates = append(last.Aggregates, a)
}

func (s *scenario) outbox(args []string) {
	o := &Outbox{}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		switch name {
		case "for":
			o.For = strings.Split(value, ",")
		case "read":
			o.Read = true
		default:
			columns := map[string]*Name{"id": &o.ID, "aggregatetype": &o.AggregateType, "aggregateid": &o.AggregateID, "type": &o.Type, "payload": &o.Payload, "headers": &o.Headers}
			*columns[name] = Name{value, "w.yaml:" + name}
		}
	}
	s.lastTable().Outbox = o
}

func (s *scenario) unquote(word string) string {
	if text, err := strconv.Unquote(word); err == nil {
		return text
	}
	return word
}

func (s *scenario) table(args []string) {
	namespace, name, _ := strings.Cut(args[0], ".")
	identity, index, _ := strings.Cut(args[1], "=")
	rel := &change.Relation{OID: uint32(len(s.tables) + 1), Namespace: namespace, Name: name, Identity: change.Identity(identity[0])}
	if old := s.tables[args[0]]; old != nil {
		rel.OID = old.OID
	}
	keys := map[string]bool{}
	for _, arg := range args[2:] {
		if pk, ok := strings.CutPrefix(arg, "pk="); ok {
			rel.PrimaryKey = strings.Split(pk, ",")
			continue
		}
		column, typ, _ := strings.Cut(arg, ":")
		t := map[string]*change.Type{"": typeText, "int": typeInt8, "numeric": typeNumeric, "point": typePoint2, "tags": arrayOf(typeText),
			"float": typeFloat8, "bool": typeBool, "json": typeJSONB, "time": typeTimestampTZ, "int4": typeInt4}[typ]
		rel.Columns = append(rel.Columns, change.Column{Name: column, Type: t})
	}
	key := strings.Split(index, ",")
	if rel.Identity == change.IdentityDefault {
		key = rel.PrimaryKey
	}
	for _, k := range key {
		keys[k] = true
	}
	for i := range rel.Columns {
		rel.Columns[i].Key = rel.Identity == change.IdentityFull || keys[rel.Columns[i].Name]
	}
	s.tables[args[0]] = rel
}

var opNames = map[string]change.Op{"insert": change.Insert, "read": change.Read, "update": change.Update, "delete": change.Delete, "truncate": change.Truncate, "message": change.Message}

func (s *scenario) change(command string, args []string) string {
	c := &change.Change{Op: opNames[command]}
	if c.Op == 0 {
		s.t.Fatalf("unknown command %q", command)
	}
	if c.Op == change.Message {
		if len(args) == 2 {
			c.Prefix, c.Content = args[0], []byte(s.unquote(args[1]))
		}
	} else {
		c.Relation = s.tables[args[0]]
	}
	for i, arg := range args {
		if i == 0 || c.Op == change.Message {
			continue
		}
		if arg == "|" {
			c.Old = s.values(args[i+1:])
			break
		}
		c.New = append(c.New, s.values(args[i:i+1])...)
	}
	if c.Op == change.Delete {
		c.New, c.Old = nil, c.New
	}
	var b strings.Builder
	events, err := s.mapper.Map(c)
	for n := (*KeyNeeded)(nil); errors.As(err, &n); events, err = s.mapper.Map(c) {
		key, ok := s.keys[n.NeedsKey()]
		if !ok {
			break
		}
		fmt.Fprintf(&b, "needs the key of %s\n", n.NeedsKey())
		if err := n.Give(key); err != nil {
			s.t.Fatal(err)
		}
	}
	return b.String() + eventLines(s.t, events) + errorLine(err)
}

func (s *scenario) values(words []string) []change.Value {
	var row []change.Value
	for _, w := range words {
		switch w {
		case "NULL":
			row = append(row, change.Value{Kind: change.Null})
		case "?":
			row = append(row, change.Value{Kind: change.Unchanged})
		case "-":
			row = append(row, change.Value{Kind: change.Absent})
		default:
			row = append(row, change.Value{Kind: change.Text, Data: []byte(s.unquote(w))})
		}
	}
	return row
}

func eventLine(e *event.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s %c", e.Position, e.Stream.Keys[e.Partition], e.Type, e.Op)
	for _, f := range []struct {
		name string
		text []byte
	}{{"key", e.Key}, {"keydata", e.KeyData}, {"data", e.Data}, {"old", e.Old}, {"unchanged", e.Unchanged}, {"headers", e.Headers}} {
		if len(f.text) > 0 {
			fmt.Fprintf(&b, " %s=%s", f.name, f.text)
		}
	}
	return b.String() + "\n"
}
