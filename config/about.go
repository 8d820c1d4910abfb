package config

import "strings"

// About is what the catalogue says of a stream, a table or an event. It has no part in what is published.
type About struct {
	Description string // any text; empty without one
	Owner       string // who answers for it, one line; empty without one
}

const (
	maxDescription = 2000
	maxOwner       = 200
)

func (r *reader) description(a *About) field {
	return field{name: "description", read: func(path string, n *node) { r.prose(path, n, &a.Description, maxDescription) }}
}

func (r *reader) owner(a *About) field {
	return field{name: "owner", read: func(path string, n *node) {
		r.prose(path, n, &a.Owner, maxOwner)
		if strings.Contains(a.Owner, "\n") {
			r.fail(n.at, path, "the owner has several lines; write one, such as `team-orders`")
		}
	}}
}

func (r *reader) compatibility(c *Compatibility) field {
	return field{name: "compatibility", read: func(path string, n *node) {
		choose(r, path, n, c, CompatibilityBackward, CompatibilityFull, CompatibilityNone)
	}}
}

func (r *reader) prose(path string, n *node, dst *string, most int) {
	text, ok := r.text(path, n, "text")
	if !ok {
		return
	}
	*dst = strings.TrimSpace(text)
	if size := len([]rune(*dst)); size == 0 || size > most {
		r.fail(n.at, path, "the text has %d characters; write 1 to %d, or remove the field", size, most)
	}
}
