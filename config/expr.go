package config

import "strings"

// Expr is an expression of a rule. What it means is not known here.
type Expr struct {
	Text   string
	At     Pos
	places []Pos // of its characters; nil when they cannot be told apart
}

// Place is where a character of the expression stands in the file, counted
// from 0; past the end it is the place behind the last one.
func (e *Expr) Place(character int) Pos {
	last := len(e.places) - 1
	switch {
	case character <= 0 && last < 0, last < 0:
		return e.At
	case character > last:
		p := e.places[last]
		p.Column++
		return p
	}
	return e.places[max(character, 0)]
}

func (r *reader) expr(path string, n *node) *Expr {
	if n.kind == kindNumber || n.kind == kindBool {
		return &Expr{Text: n.text, At: n.at}
	}
	text, ok := r.text(path, n, "an expression, such as `new.status == \"paid\"`")
	if !ok {
		return nil
	}
	if strings.TrimSpace(text) == "" {
		r.fail(n.at, path, "the expression is empty; write one such as `new.status == \"paid\"`, or remove the field")
		return nil
	}
	e := &Expr{Text: text, At: n.at}
	if text == n.text {
		e.places = r.places(n)
	}
	return e
}

// places finds each character of a text in the file's lines. It is nil when
// the text is written in a way that it does not follow.
func (r *reader) places(n *node) []Pos {
	s := scanner{lines: r.lines, at: n.at}
	quote, ok := s.peek()
	switch {
	case !ok:
		return nil
	case quote == '|' || quote == '>':
		s.nextLine()
	case n.quoted:
		s.at.Column++
	default:
		quote = 0
	}
	var places []Pos
	for _, c := range n.text {
		if !s.find(c, quote) {
			return nil
		}
		places = append(places, s.at)
		s.step(c, quote)
	}
	return places
}

// scanner walks through the file's lines.
type scanner struct {
	lines []string
	at    Pos
}

func (s *scanner) line() []rune {
	if s.at.Line < 1 || s.at.Line > len(s.lines) {
		return nil
	}
	return []rune(strings.TrimRight(s.lines[s.at.Line-1], " \t\r"))
}

func (s *scanner) peek() (rune, bool) {
	line := s.line()
	if s.at.Column < 1 || s.at.Column > len(line) {
		return 0, false
	}
	return line[s.at.Column-1], true
}

// nextLine goes to the first character of the next line that has one.
func (s *scanner) nextLine() {
	s.at.Line, s.at.Column = s.at.Line+1, 1
	for s.at.Line < len(s.lines) && strings.TrimSpace(s.lines[s.at.Line-1]) == "" {
		s.at.Line++
	}
	for c, ok := s.peek(); ok && c == ' '; c, ok = s.peek() {
		s.at.Column++
	}
}

// find goes to the character c of the text: where it stands, or the line's
// end that it was made of, or its escape.
func (s *scanner) find(c, quote rune) bool {
	got, ok := s.peek()
	switch {
	case !ok:
		return c == ' ' || c == '\n'
	case got == '\\' && quote == '"':
		return true
	}
	return got == c
}

// step goes behind the character.
func (s *scanner) step(c, quote rune) {
	got, ok := s.peek()
	switch {
	case !ok:
		s.nextLine()
		return
	case got == '\\' && quote == '"', got == '\'' && quote == '\'':
		s.at.Column++
	}
	s.at.Column++
}
