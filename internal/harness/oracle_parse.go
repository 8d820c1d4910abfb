package harness

import (
	"errors"
	"fmt"
	"strings"
)

// parseTestDecoding reads one row of contrib/test_decoding that is a change.
// Its source, contrib/test_decoding/test_decoding.c, is the only definition of
// the format:
//
//	table public.t: INSERT: id[integer]:1 note[text]:'it''s' at[date]:null
//	table public.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 note[text]:unchanged-toast-datum
//	table public.t: DELETE: (no-tuple-data)
//	table public.t, public.u: TRUNCATE: restart_seqs cascade
//	message: transactional: 1 prefix: p, sz: 3 content:abc
//
// A TRUNCATE of several tables gives a change for each.
func parseTestDecoding(data string) ([]OracleChange, error) {
	s := &scanner{data}
	if s.skip("message: ") {
		change, err := s.message()
		return []OracleChange{change}, err
	}
	if !s.skip("table ") {
		return nil, errors.New("want `table` or `message`")
	}
	tables, err := s.tables()
	if err != nil {
		return nil, err
	}
	if s.skip(" TRUNCATE:") {
		var changes []OracleChange
		for _, table := range tables {
			changes = append(changes, OracleChange{Table: table, Op: OpTruncate})
		}
		return changes, nil
	}
	change, err := s.rowChange()
	change.Table = tables[0]
	return []OracleChange{change}, err
}

// scanner takes a row apart from the left.
type scanner struct{ rest string }

// skip goes past prefix if it is next.
func (s *scanner) skip(prefix string) bool {
	rest, ok := strings.CutPrefix(s.rest, prefix)
	s.rest = rest
	return ok
}

// tables reads qualified names up to the colon behind the last.
func (s *scanner) tables() (names []string, err error) {
	for {
		schema, err := s.identifier()
		if err != nil {
			return nil, err
		}
		if !s.skip(".") {
			return nil, fmt.Errorf("want a dot at %q", s.rest)
		}
		table, err := s.identifier()
		if err != nil {
			return nil, err
		}
		names = append(names, schema+"."+table)
		if s.skip(":") {
			return names, nil
		}
		if !s.skip(", ") {
			return nil, fmt.Errorf("want a comma or a colon at %q", s.rest)
		}
	}
}

// identifier reads a name, quoted if it has anything but a-z, 0-9 and _.
func (s *scanner) identifier() (string, error) {
	if strings.HasPrefix(s.rest, `"`) {
		return s.quoted('"')
	}
	end := strings.IndexFunc(s.rest, func(r rune) bool {
		return !(r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9')
	})
	if end <= 0 {
		return "", fmt.Errorf("want a name at %q", s.rest)
	}
	name := s.rest[:end]
	s.rest = s.rest[end:]
	return name, nil
}

// quoted reads a text between quotes, in which quotes are doubled.
func (s *scanner) quoted(quote byte) (string, error) {
	for i := 1; i < len(s.rest); i++ {
		if s.rest[i] != quote {
			continue
		}
		if i+1 < len(s.rest) && s.rest[i+1] == quote {
			i++
			continue
		}
		q := string(quote)
		text := strings.ReplaceAll(s.rest[1:i], q+q, q)
		s.rest = s.rest[i+1:]
		return text, nil
	}
	return "", fmt.Errorf("want a closing %c in %q", quote, s.rest)
}

// rowChange reads an operation and its tuples.
func (s *scanner) rowChange() (c OracleChange, err error) {
	switch {
	case s.skip(" INSERT:"):
		c.Op = OpInsert
		c.New, c.Unchanged, err = s.tuple()
	case s.skip(" DELETE:"):
		c.Op = OpDelete
		c.Old, _, err = s.tuple()
	case s.skip(" UPDATE:"):
		c.Op = OpUpdate
		if s.skip(" old-key:") {
			if c.Old, _, err = s.tuple(); err != nil {
				return c, err
			}
			if !s.skip(" new-tuple:") {
				return c, fmt.Errorf("want new-tuple at %q", s.rest)
			}
		}
		c.New, c.Unchanged, err = s.tuple()
	default:
		return c, fmt.Errorf("want an operation at %q", s.rest)
	}
	if err == nil && s.rest != "" {
		err = fmt.Errorf("want the end at %q", s.rest)
	}
	return c, err
}

// tuple reads columns up to the end or to " new-tuple:".
func (s *scanner) tuple() (values map[string]*string, unchanged []string, err error) {
	if s.skip(" (no-tuple-data)") {
		return nil, nil, nil
	}
	values = map[string]*string{}
	for s.rest != "" && !strings.HasPrefix(s.rest, " new-tuple:") {
		if !s.skip(" ") {
			return nil, nil, fmt.Errorf("want a space at %q", s.rest)
		}
		name, err := s.identifier()
		if err != nil {
			return nil, nil, err
		}
		if err := s.typeName(); err != nil {
			return nil, nil, err
		}
		if s.skip("unchanged-toast-datum") {
			unchanged = append(unchanged, name)
			continue
		}
		if values[name], err = s.value(); err != nil {
			return nil, nil, err
		}
	}
	return values, unchanged, nil
}

// typeName goes past [type]: . A type can have brackets itself, text[], and
// a quoted name that has anything.
func (s *scanner) typeName() error {
	depth, inQuotes := 0, false
	for i, r := range s.rest {
		switch {
		case r == '"':
			inQuotes = !inQuotes
		case inQuotes:
		case r == '[':
			depth++
		case r == ']':
			depth--
		case depth == 0 && r == ':' && i > 0:
			s.rest = s.rest[i+1:]
			return nil
		}
		if depth == 0 && r != ']' {
			break
		}
	}
	return fmt.Errorf("want a type in brackets at %q", s.rest)
}

// value reads null, a quoted text, a bit string, or a bare number or boolean.
func (s *scanner) value() (*string, error) {
	if s.skip("B'") {
		s.rest = "'" + s.rest
	}
	if strings.HasPrefix(s.rest, "'") {
		text, err := s.quoted('\'')
		return &text, err
	}
	text, rest, more := strings.Cut(s.rest, " ")
	s.rest = rest
	if more {
		s.rest = " " + rest
	}
	switch text {
	case "":
		return nil, fmt.Errorf("want a value at %q", s.rest)
	case "null":
		return nil, nil
	}
	return &text, nil
}

// message reads a logical message.
func (s *scanner) message() (OracleChange, error) {
	_, rest, ok1 := strings.Cut(s.rest, " prefix: ")
	prefix, rest, ok2 := strings.Cut(rest, ", sz: ")
	_, content, ok3 := strings.Cut(rest, " content:")
	if !ok1 || !ok2 || !ok3 {
		return OracleChange{}, fmt.Errorf("want a message at %q", s.rest)
	}
	return OracleChange{Op: OpMessage, New: map[string]*string{"prefix": &prefix, "content": &content}}, nil
}
