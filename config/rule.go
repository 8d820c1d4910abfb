package config

import (
	"encoding/json"
	"slices"
	"strconv"
)

// Rule makes an event of a change.
type Rule struct {
	Type string // letters, digits, `_`, `.`, `-` and `:`, 1 to 200
	On   []On   // at least one, distinct
	When *Expr  // nil is always
	// Data is nil for the whole row.
	Data      *Payload
	Version   int // of the data, 0 when the catalogue counts; only with Data
	Upcasts   Upcasts
	Otherwise bool // these come after the others for the same kind of change
	About     About
	At        Pos
}

// On is a kind of change.
type On string

// What a rule may be for.
const (
	OnInsert   On = "insert"
	OnUpdate   On = "update"
	OnDelete   On = "delete"
	OnTruncate On = "truncate"
	OnRead     On = "read" // a row that a backfill has read
)

// Payload is what an event's data is made of: one of the four.
type Payload struct {
	Expr   *Expr
	JSON   string   // a number, true, false or null, as it is written to the event
	Object []Member // nil unless it is an object
	List   []Payload
	Kind   PayloadKind
}

// Member is a member of an object.
type Member struct {
	Name  string
	Value Payload
}

// PayloadKind says which part of a Payload is set.
type PayloadKind byte

// The kinds of a Payload.
const (
	PayloadExpr PayloadKind = iota
	PayloadJSON
	PayloadObject
	PayloadList
)

const (
	maxType    = 200
	maxVersion = 1_000_000
)

func (r *reader) rules(path string, n *node) []Rule {
	if n.kind != kindList {
		if n.kind != kindBad {
			r.fail(n.at, path, "want a list of rules, such as `- {type: order.placed, on: insert}`; got %s", n.kind)
		}
		return nil
	}
	if len(n.items) == 0 {
		r.fail(n.at, path, "no rule is given, so nothing would be published; leave `events` out for an event of every change")
	}
	var rules []Rule
	for i, item := range n.items {
		rule := Rule{At: item.at}
		at := path + "[" + strconv.Itoa(i) + "]"
		r.mapping(at, item,
			field{"type", r.name(&rule.Type, checkType), "type: order.placed"},
			field{"on", func(path string, n *node) { rule.On = r.on(path, n) }, "on: update"},
			field{name: "when", read: func(path string, n *node) { rule.When = r.expr(path, n) }},
			field{name: "data", read: func(path string, n *node) { rule.Data = r.data(path, n) }},
			field{name: "version", read: func(path string, n *node) { integer(r, path, n, &rule.Version, 1, maxVersion) }},
			field{name: "upcast", read: func(path string, n *node) { rule.Upcasts = r.upcasts(path, n) }},
			field{name: "otherwise", read: r.boolean(&rule.Otherwise)},
			r.description(&rule.About), r.owner(&rule.About),
		)
		if rule.Version > 0 && rule.Data == nil {
			r.fail(rule.At, at, "`version` is for events with `data`; the columns of whole rows have versions by themselves")
		}
		r.checkUpcasts(at, &rule)
		for _, before := range rules {
			if before.Otherwise && !rule.Otherwise && overlap(before.On, rule.On) {
				r.fail(rule.At, at, "the rule stands after one with `otherwise` for the same kind of change, at %s; those with `otherwise` come last", lineOf(before.At))
			}
		}
		rules = append(rules, rule)
	}
	return rules
}

func overlap(a, b []On) bool {
	return slices.ContainsFunc(a, func(on On) bool { return slices.Contains(b, on) })
}

func checkType(name string) string {
	for _, c := range name {
		if !isLetter(c) && !slices.Contains([]rune("_.-:"), c) {
			return "holds a character other than letters, digits, `_`, `.`, `-` and `:`; write one such as `order.placed`"
		}
	}
	if name == "" || len(name) > maxType {
		return "has " + strconv.Itoa(len(name)) + " characters; write 1 to " + strconv.Itoa(maxType)
	}
	return ""
}

// on reads a kind of change or a list of them.
func (r *reader) on(path string, n *node) []On {
	items := []*node{n}
	if n.kind == kindList {
		items = n.items
		if len(items) == 0 {
			r.fail(n.at, path, "the list is empty; write one such as `[insert, update]`")
		}
	}
	var list []On
	for _, item := range items {
		var on On
		choose(r, path, item, &on, OnInsert, OnUpdate, OnDelete, OnTruncate, OnRead)
		if on != "" && slices.Contains(list, on) {
			r.fail(item.at, path, "%s is written twice; keep one", show(string(on)))
		}
		list = append(list, on)
	}
	return list
}

// data reads a payload: an object, or an expression that is one.
func (r *reader) data(path string, n *node) *Payload {
	if n.kind != kindMapping && n.kind != kindText {
		if n.kind != kindBad {
			r.fail(n.at, path, "want the event's data, such as `{order_id: new.id}`, or an expression; got %s", n.kind)
		}
		return nil
	}
	p := r.payload(path, n)
	return &p
}

func (r *reader) payload(path string, n *node) Payload {
	switch n.kind {
	case kindMapping:
		p := Payload{Kind: PayloadObject}
		for _, e := range n.entries {
			p.Object = append(p.Object, Member{e.name, r.payload(join(path, e.name), e.value)})
		}
		return p
	case kindList:
		p := Payload{Kind: PayloadList}
		for i, item := range n.items {
			p.List = append(p.List, r.payload(path+"["+strconv.Itoa(i)+"]", item))
		}
		return p
	case kindNumber, kindBool:
		if !json.Valid([]byte(n.text)) {
			r.fail(n.at, path, "%s is not a number as JSON has them; write it in another form, or in quotes as an expression", show(n.text))
		}
		return Payload{Kind: PayloadJSON, JSON: n.text}
	case kindNothing:
		return Payload{Kind: PayloadJSON, JSON: "null"}
	case kindBad:
		return Payload{Kind: PayloadJSON, JSON: "null"}
	}
	return Payload{Expr: r.expr(path, n)}
}
