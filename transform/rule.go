package transform

import "github.com/walrill/walrill/change"

// Rule makes an event of a change. The rules of a table are asked in their
// order, and each that matches emits.
type Rule struct {
	Type string
	On   []change.Op // which changes it is for, at least one
	When *Expr       // a condition; nil is always true
	// Data is the event's payload; nil is the whole row, as without rules.
	Data *Payload
	// Version is that of Data; 0 leaves it to the catalogue. Rules of one type have one.
	Version int
	// Upcasts turn data of earlier versions into the next one's, ascending; Version is what the last one makes.
	Upcasts []Upcast
	// Otherwise rules emit when no rule without it has; they come after those for the same changes.
	Otherwise bool
	Where     string // file:line for errors, optional
}

// Payload is what data is made of: exactly one of an expression, an object, a
// list and JSON that is written as it is.
type Payload struct {
	Expr   *Expr
	Object []PayloadMember
	List   []Payload
	JSON   string
	Kind   PayloadKind
}

// PayloadKind says which part of a Payload is set.
type PayloadKind uint8

// The kinds of a Payload.
const (
	PayloadExpr PayloadKind = iota
	PayloadObject
	PayloadList
	PayloadJSON
)

// PayloadMember is a member of a payload's object.
type PayloadMember struct {
	Name  string
	Value Payload
}

// expressions are all expressions of a table's mapping.
func (t *TableMapping) expressions() []*Expr {
	var list []*Expr
	if t.KeyExpr != nil {
		list = append(list, t.KeyExpr)
	}
	for i := range t.Rules {
		r := &t.Rules[i]
		if r.When != nil {
			list = append(list, r.When)
		}
		if r.Data != nil {
			list = append(list, r.Data.expressions()...)
		}
		for j := range r.Upcasts {
			for k := range r.Upcasts[j].Set {
				list = append(list, r.Upcasts[j].Set[k].Value.expressions()...)
			}
		}
	}
	return list
}

func (p *Payload) expressions() []*Expr {
	var list []*Expr
	if p.Kind == PayloadExpr {
		list = append(list, p.Expr)
	}
	for i := range p.Object {
		list = append(list, p.Object[i].Value.expressions()...)
	}
	for i := range p.List {
		list = append(list, p.List[i].expressions()...)
	}
	return list
}
