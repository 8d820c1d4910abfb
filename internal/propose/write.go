package propose

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml"

	"github.com/walrill/walrill/change"
)

// Options are what the command line says.
type Options struct {
	Pipeline string   // default: made of the database's name
	Sink     string   // the Redis URL as it is to stand in the file
	Patterns []string // of the tables to propose: schema.table or schema.*; none is all
}

// Proposal is a configuration file and what its reader is told beside it.
type Proposal struct {
	Text     string
	Pipeline string
	Streams  int
	Tables   int      // captured
	Left     int      // tables that are left out
	Fixes    []string // statements after which more of the file can be used
	Stream   string   // a Redis key to look at first
}

// File proposes a configuration for the tables that match. What it writes is valid as it is; what needs a
// statement or a decision first stands behind a `#` without a space.
func File(c *Catalogue, o Options) Proposal {
	g := group(matching(c.Tables, o.Patterns))
	w := &writer{names: map[string]bool{}}
	w.Pipeline = o.Pipeline
	if w.Pipeline == "" {
		w.Pipeline = pipelineName(c.Database)
	}
	w.head(c, o)
	w.tenants(g)
	for _, f := range g.families {
		w.family(f)
	}
	if len(g.families) == 0 {
		w.nothing(o.Patterns)
	}
	w.missing(g.left)
	w.leftOut(g.left)
	w.Streams, w.Text = len(g.families), w.text.String()
	return w.Proposal
}

func matching(tables []Table, patterns []string) []Table {
	return slices.DeleteFunc(slices.Clone(tables), func(t Table) bool {
		if t.Schema == "walrill" || strings.HasPrefix(t.Schema, "walrill_") {
			return true // its own
		}
		return len(patterns) > 0 && !slices.Contains(patterns, t.Schema+".*") && !slices.Contains(patterns, t.String())
	})
}

type writer struct {
	Proposal
	text  bytes.Buffer
	names map[string]bool // of streams, so far
}

// line writes a line at a depth of so many steps.
func (w *writer) line(depth int, format string, args ...any) {
	w.text.WriteString(strings.Repeat("  ", depth))
	fmt.Fprintf(&w.text, format, args...)
	w.text.WriteByte('\n')
}

func (w *writer) head(c *Catalogue, o Options) {
	w.line(0, "# Proposed by `walrill init` from the database %s: keep what fits.", oneLine(c.Database))
	w.line(0, "# A line that starts with `#` and no space is a proposal: take the # away to use it.")
	w.line(0, "# For completion in your editor: walrill schema > walrill.schema.json, and use the next line.")
	w.line(0, "## yaml-language-server: $schema=walrill.schema.json")
	w.line(0, "")
	w.line(0, "pipeline: %s", scalar(w.Pipeline))
	w.line(0, "")
	w.line(0, "source:")
	w.line(1, "# From the environment, so that no password stands here: export DATABASE_URL='postgres://…'")
	w.line(1, "url: ${DATABASE_URL}")
	w.line(1, "# The rows that are there already: initial publishes them once, never does not.")
	w.line(1, "backfill: initial")
	w.line(0, "")
	w.line(0, "sink:")
	w.line(1, "url: %s", o.Sink)
	w.line(1, "# Streams grow until this trims what is older, but for what a consumer group has not read.")
	w.line(1, "#retention: {max_age: 7d}")
	w.line(0, "")
	w.line(0, "# Each is a stream in Redis. Entries with the same key stay in the order of their commits; the key is the primary key")
	w.line(0, "# unless `key` says otherwise.")
	w.line(0, "streams:")
}

// tenants tells what could be keyed otherwise when most tables belong to tenants.
func (w *writer) tenants(g grouping) {
	total := 0
	counts := map[string]int{}
	for _, f := range g.families {
		for _, t := range append([]*Table{f.root}, partTables(f)...) {
			total++
			for _, name := range tenantColumns {
				if t.notNull([]string{name}) {
					counts[name]++
				}
			}
		}
	}
	for _, name := range tenantColumns {
		if n := counts[name]; n >= 2 && 2*n >= total {
			w.line(1, "# %d of %d tables have %s. With `key: %[3]s` in each of them, all that happens to a tenant stays in order, in one", n, total, name)
			w.line(1, "# partition. A table whose primary key does not hold it first needs ALTER TABLE … REPLICA IDENTITY FULL.")
			w.line(0, "")
			return
		}
	}
}

func partTables(f family) []*Table {
	var tables []*Table
	for _, p := range f.parts {
		tables = append(tables, p.table)
	}
	return tables
}

func (w *writer) family(f family) {
	name := w.streamName(f.root)
	w.line(1, "%s:", scalar(name))
	if f.note != "" {
		w.line(2, "# %s", oneLine(f.note))
	}
	keyed := true
	for _, p := range f.parts {
		keyed = keyed && p.table.identified(p.key)
	}
	partitions := w.partitions(f, keyed)
	if w.Stream == "" {
		w.Stream = name
		if partitions > 1 && keyed {
			w.Stream += ":0"
		}
	}
	w.line(2, "tables:")
	w.table(f.root, nil)
	for _, p := range f.parts {
		w.table(p.table, &p)
	}
	w.aggregate(f)
}

// partitions proposes a number of partitions by the number of rows. It is only a proposal while the parts
// have not the root's key: they would be in other partitions than it.
func (w *writer) partitions(f family, keyed bool) int {
	rows := f.root.Rows
	for _, p := range f.parts {
		rows = max(rows, p.table.Rows)
	}
	n := 1
	for _, step := range []struct {
		rows float64
		n    int
	}{{1e6, 4}, {1e7, 8}, {1e8, 16}} {
		if rows >= step.rows {
			n = step.n
		}
	}
	if n == 1 {
		return 1
	}
	w.line(2, "# Some %s rows: so many consumers can share the work. It cannot be changed later.", round(rows))
	if !keyed {
		w.line(2, "# Take the # away when the tables below have the key of %s, so that what belongs together is in one partition.", oneLine(f.root.Name))
	}
	w.line(2, "%spartitions: %d", map[bool]string{true: "", false: "#"}[keyed], n)
	return n
}

func round(rows float64) string {
	if rows >= 1e9 {
		return strconv.FormatFloat(rows/1e9, 'f', 1, 64) + " billion"
	}
	return strconv.FormatFloat(rows/1e6, 'f', 0, 64) + " million"
}

// table writes a table of a stream; p is nil for the root.
func (w *writer) table(t *Table, p *part) {
	w.Tables++
	w.line(3, "%s:", scalar(t.String()))
	start := w.text.Len()
	if o := t.outbox(); o != "" && p == nil {
		w.line(4, "# Looks like an outbox: then each row that is inserted is an event that the application wrote, with type, key and data of its own.")
		w.line(4, "#outbox: %s", o)
		return
	}
	needsFull := false
	if p != nil {
		needsFull = !w.key(p)
	}
	w.events(t, &needsFull)
	if columns := t.personalColumns(); len(columns) > 0 {
		w.mask(t, columns, p == nil)
	}
	if needsFull {
		w.Fixes = append(w.Fixes, identityFull(t))
	}
	if w.text.Len() == start {
		w.text.Truncate(start - 1)
		w.line(0, " {}")
	}
}

// mask proposes what is published instead of columns that look personal.
func (w *writer) mask(t *Table, columns []string, defaultKey bool) {
	how, instead := "redact", "***"
	if defaultKey && len(t.PrimaryKey) == 0 && t.Identity == change.IdentityFull { // the key is the whole row, whose values must stay apart
		how, instead = `{hash: "${MASK_KEY}"}`, "a token"
	}
	masks := make([]string, len(columns))
	for i, name := range columns {
		masks[i] = scalar(name) + ": " + how
	}
	w.line(4, "# Looks personal or secret: publish %s instead. Or leave it out, with columns: {exclude: %s}.", instead, list(columns))
	w.line(4, "#mask: {%s}", strings.Join(masks, ", "))
}

// key writes the key of a part and reports whether the table's identity holds it.
func (w *writer) key(p *part) bool {
	w.line(4, "# A part (%s): with the same key, both stay in order with each other.", oneLine(p.why))
	key := list(p.key)
	if len(p.key) == 1 {
		key = flow(p.key[0])
	}
	if p.table.identified(p.key) {
		w.line(4, "key: %s", key)
		return true
	}
	w.line(4, "# First, so that Postgres tells what a deleted row belonged to: %s", identityFull(p.table))
	w.line(4, "#key: %s", key)
	return false
}

// events proposes an event for each state that a row can come to.
func (w *writer) events(t *Table, needsFull *bool) {
	c := t.statusColumn()
	if c == nil {
		return
	}
	w.line(4, "# What happens to %s, in words of its own.", article(entity(t.Name)))
	if t.Identity != 'f' {
		w.line(4, "# First, so that Postgres sends old values: %s", identityFull(t))
		*needsFull = true
	}
	w.line(4, "#events:")
	w.line(4, "#- {type: %s, on: read}", eventType(t, "known"))
	w.line(4, "#- {type: %s, on: insert}", eventType(t, "created"))
	before, after := member("old", c.Name), member("new", c.Name)
	for _, value := range transitions(c) {
		if value == "" {
			w.line(4, "#- {type: %s, on: update, when: %s}", eventType(t, c.Name+"_changed"), flow(before+" != "+after))
			continue
		}
		what := value
		if slices.Contains([]string{"known", "created", "changed", "deleted"}, value) {
			what = c.Name + "_" + value // those are of the whole row
		}
		when := fmt.Sprintf("%s != %s && %s == %[2]s", before, strconv.Quote(value), after)
		w.line(4, "#- {type: %s, on: update, when: %s}", eventType(t, what), flow(when))
	}
	w.line(4, "#- {type: %s, on: update, otherwise: true}", eventType(t, "changed"))
	w.line(4, "#- {type: %s, on: delete}", eventType(t, "deleted"))
}

const maxStates = 12 // with more values, one event for all changes of the column

// transitions are the values that a row can come to, or "" alone when they are not known. A row
// begins with the default, so there is nothing to say about coming to it.
func transitions(c *Column) []string {
	values := slices.DeleteFunc(slices.Clone(c.choices()), func(v string) bool { return v == c.initial() || len(words(v)) == 0 })
	if len(values) == 0 || len(values) > maxStates {
		return []string{""}
	}
	return values
}

// eventType is a type as the configuration takes it: letters of other alphabets are _.
func eventType(t *Table, what string) string {
	return strings.Map(func(c rune) rune {
		if c > unicode.MaxASCII {
			return '_'
		}
		return c
	}, entity(t.Name)+"."+strings.Join(words(what), "_"))
}

func article(noun string) string {
	if strings.ContainsAny(noun[:1], "aeio") {
		return "an " + noun
	}
	return "a " + noun
}

// member is an expression for a column of a row.
func member(row, column string) string {
	for i, c := range column {
		if c != '_' && !unicode.IsLetter(c) && (i == 0 || !unicode.IsDigit(c)) {
			return row + "[" + strconv.Quote(column) + "]"
		}
	}
	return row + "." + column
}

// nothing stands for tables that are still to be made.
func (w *writer) nothing(patterns []string) {
	w.line(1, "# There is no table to capture yet. This takes every table that will be made, each into a stream of its own name.")
	w.line(1, `"*":`)
	w.line(2, "tables:")
	if len(patterns) == 0 {
		patterns = []string{"public.*"}
	}
	for _, p := range patterns {
		w.line(3, "%s: {}", scalar(p))
	}
}

// missing proposes streams for tables that need a statement first.
func (w *writer) missing(tables []left) {
	for _, l := range tables {
		if l.fix == "" {
			continue
		}
		w.Left++
		w.Fixes = append(w.Fixes, l.fix)
		w.line(0, "")
		w.line(1, "# Not yet %s: %s.", oneLine(l.table.String()), l.why)
		w.line(1, "# First give it a primary key, or: %s", oneLine(l.fix))
		w.line(1, "#%s: {tables: {%s: {}}}", scalar(w.streamName(l.table)), scalar(l.table.String()))
	}
}

func (w *writer) leftOut(tables []left) {
	first := true
	for _, l := range tables {
		if l.fix != "" {
			continue
		}
		w.Left++
		if first {
			w.line(0, "")
			w.line(0, "# Left out:")
			first = false
		}
		w.line(0, "#   %s: %s", oneLine(l.table.String()), oneLine(l.why))
	}
}

// streamName is the table's name, with its schema outside public, as far as a stream may have it.
func (w *writer) streamName(t *Table) string {
	name := t.Name
	if t.Schema != "public" {
		name = t.String()
	}
	name = strings.Map(func(c rune) rune {
		if unicode.IsSpace(c) || !unicode.IsPrint(c) || strings.ContainsRune("{}*:", c) {
			return '_'
		}
		return c
	}, name)
	for base, n := name, 2; w.names[name]; n++ {
		name = fmt.Sprintf("%s_%d", base, n)
	}
	w.names[name] = true
	return name
}

// pipelineName makes a pipeline's name of a database's.
func pipelineName(database string) string {
	name := strings.Map(func(c rune) rune {
		if c < unicode.MaxASCII && (unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("_.-", c)) {
			return c
		}
		return '_'
	}, database)
	return name[:min(len(name), 40)]
}

// badName reports names that the configuration does not take.
func badName(name string) bool {
	return strings.TrimSpace(name) != name || strings.ContainsFunc(name, unicode.IsControl)
}

func identityFull(t *Table) string { return "ALTER TABLE " + sqlTable(t) + " REPLICA IDENTITY FULL;" }

func sqlTable(t *Table) string { return sqlName(t.Schema) + "." + sqlName(t.Name) }

// sqlName quotes an identifier unless it is plain.
func sqlName(name string) string {
	for i, c := range name {
		if c != '_' && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') {
			return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
		}
	}
	return name
}

// oneLine keeps text from ending the comment that it stands in.
func oneLine(text string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) && c != ' ' {
			return ' '
		}
		return c
	}, text)
}

// plainName is text that YAML reads as itself wherever it stands, unless it is a word such as true.
var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*( [A-Za-z0-9_.-]+)*$`)

// scalar writes a name as YAML, in quotes where it needs them.
func scalar(text string) string {
	out, err := yaml.Marshal(text)
	if err == nil && strings.TrimSuffix(string(out), "\n") == text && plainName.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}

// flow writes a value as YAML within { } or [ ], and so that no variable is seen in it.
func flow(text string) string {
	return scalar(strings.ReplaceAll(text, "${", "$${"))
}

func list(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = flow(name)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
