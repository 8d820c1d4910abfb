package config

import "strings"

// Declared is an event that the application writes itself, as it says that it writes it.
type Declared struct {
	Type string // of the form of a rule's
	// Data are the members that data has, at least, in the order written; nil when nothing is said of them.
	Data    []DeclaredMember
	Version int // of the data, 0 when the catalogue counts
	About   About
	At      Pos
}

// DeclaredMember is a member of a declared event's data.
type DeclaredMember struct {
	Name     string
	JSON     string // integer, number, string, boolean, array, object or any
	Optional bool   // not in every event
	Members  []DeclaredMember
}

// declared reads events by type.
func (r *reader) declared(path string, n *node) []Declared {
	if !r.isMapping(path, n, "event types, such as `order.paid: {data: {total: number}}`") {
		return nil
	}
	var list []Declared
	for _, e := range n.entries {
		d := Declared{Type: e.name, At: e.at}
		at := join(path, e.name)
		if msg := checkType(e.name); msg != "" {
			r.fail(e.at, at, "the event's type %s", msg)
		}
		r.mapping(at, e.value,
			field{"data", func(path string, n *node) { d.Data = r.declaredMembers(path, n) }, "data: {order_id: integer}"},
			field{name: "version", read: func(path string, n *node) { integer(r, path, n, &d.Version, 1, maxVersion) }},
			r.description(&d.About), r.owner(&d.About),
		)
		list = append(list, d)
	}
	return list
}

func (r *reader) declaredMembers(path string, n *node) []DeclaredMember {
	if !r.isMapping(path, n, "members and what they are, such as `{order_id: integer, note?: string}`") {
		return nil
	}
	list := []DeclaredMember{}
	seen := map[string]bool{}
	for _, e := range n.entries {
		m := DeclaredMember{}
		m.Name, m.Optional = strings.CutSuffix(e.name, "?")
		switch at := join(path, e.name); {
		case m.Name == "":
			r.fail(e.at, at, "a member has no name")
		case seen[m.Name]:
			r.fail(e.at, at, "%s is written twice, with and without `?`; keep one", show(m.Name))
		default:
			r.declaredKind(at, e.value, &m)
		}
		seen[m.Name] = true
		list = append(list, m)
	}
	return list
}

// declaredKind reads what a member is: a word, the members of an object, or those of each object of a list.
func (r *reader) declaredKind(path string, n *node, m *DeclaredMember) {
	switch {
	case n.kind == kindMapping:
		m.JSON, m.Members = "object", r.declaredMembers(path, n)
	case n.kind == kindList && len(n.items) == 1:
		m.JSON, m.Members = "array", r.declaredMembers(path, n.items[0])
	case n.kind == kindList:
		r.fail(n.at, path, "want the members of the list's objects, such as `[{sku: string}]`, or `array` for a list of anything else")
	default:
		choose(r, path, n, &m.JSON, "string", "integer", "number", "boolean", "array", "object", "any")
	}
}
