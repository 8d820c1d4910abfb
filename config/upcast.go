package config

import (
	"slices"
	"strconv"
)

// Upcasts are the steps from a rule's earlier versions to its present one, ascending and without a gap. They are for
// readers: what is published does not depend on them.
type Upcasts []Upcast

// Upcast turns data of one version into the next one's. Members that it does not name stay as they are.
type Upcast struct {
	From   int      // the version that it is for
	Set    []Member // expressions of `data`, as it was before the step
	Remove []Name
	At     Pos
}

// upcasts reads the steps by the versions that they are for. Which there must be is seen when the rule's version is known.
func (r *reader) upcasts(path string, n *node) Upcasts {
	if !r.isMapping(path, n, "versions, such as `1: {set: {currency: \"'EUR'\"}}`") {
		return nil
	}
	var list Upcasts
	for _, e := range n.entries {
		u, at := Upcast{At: e.at}, join(path, e.name)
		var err error
		if u.From, err = strconv.Atoi(e.name); err != nil || u.From < 1 || u.From > maxVersion {
			r.fail(e.at, at, "want a version, a whole number from 1, which the step turns into the next one; got %s", show(e.name))
			u.From = 0
		}
		r.mapping(at, e.value,
			field{name: "set", read: func(path string, n *node) { u.Set = r.members(path, n) }},
			field{name: "remove", read: func(path string, n *node) { u.Remove = r.memberNames(path, n) }},
		)
		if len(e.value.entries) == 0 && e.value.kind != kindBad {
			r.fail(e.at, at, "the step changes nothing; write `set`, `remove` or both")
		}
		for _, name := range u.Remove {
			if slices.ContainsFunc(u.Set, func(m Member) bool { return m.Name == name.Name }) {
				r.fail(name.At, join(at, "remove"), "the member %s is set and removed; keep one", show(name.Name))
			}
		}
		if u.From > 0 {
			list = append(list, u)
		}
	}
	slices.SortStableFunc(list, func(a, b Upcast) int { return a.From - b.From })
	return list
}

// members reads names with what they are set to, as in data.
func (r *reader) members(path string, n *node) []Member {
	if n.kind != kindMapping {
		if n.kind != kindBad {
			r.fail(n.at, path, "want members with expressions, such as `{total: data.amount}`; got %s", n.kind)
		}
		return nil
	}
	return r.payload(path, n).Object
}

// memberNames reads a member's name or a list of them, distinct.
func (r *reader) memberNames(path string, n *node) []Name {
	items := []*node{n}
	if n.kind == kindList {
		items = n.items
	}
	var names []Name
	for _, item := range items {
		name, ok := r.text(path, item, "a member's name or a list of them")
		if ok && slices.ContainsFunc(names, func(other Name) bool { return other.Name == name }) {
			r.fail(item.at, path, "the member %s is removed twice; keep one", showValue(item))
		}
		names = append(names, Name{name, item.at})
	}
	return names
}

// checkUpcasts says what is wrong with the steps of a rule as a whole.
func (r *reader) checkUpcasts(path string, rule *Rule) {
	list := rule.Upcasts
	if len(list) == 0 {
		return
	}
	if rule.Version == 0 {
		r.fail(list[0].At, join(path, "upcast"), "`upcast` leads to the rule's `version`; write it, such as `version: %d`", list[len(list)-1].From+1)
		return
	}
	for i, u := range list {
		next := rule.Version
		if i+1 < len(list) {
			next = list[i+1].From
		}
		switch at := join(join(path, "upcast"), strconv.Itoa(u.From)); {
		case u.From >= rule.Version:
			r.fail(u.At, at, "the rule's version is %d; a step is for an earlier one", rule.Version)
			return
		case next != u.From+1:
			r.fail(u.At, at, "the step leads to version %d, and none goes on from there; write one for `%[1]d`", u.From+1)
		}
	}
}
