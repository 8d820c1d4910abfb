package projector

import (
	"fmt"
	"slices"
	"strings"
)

// param is a value of an event that a fold's SQL asks for, such as :data.amount.
type param struct {
	root string   // data, old, headers, key …
	path []string // within data, old and headers; empty for all of it
}

func (p param) String() string { return ":" + strings.Join(append([]string{p.root}, p.path...), ".") }

// foldParams are the parts of an event that a fold's SQL can ask for.
var foldParams = []string{"key", "data", "old", "headers", "type", "op", "table", "stream", "time", "tx", "id", "lsn"}

// hasPath reports whether members of the part can be asked for.
func (p param) hasPath() bool { return p.root == "data" || p.root == "old" || p.root == "headers" }

// suggest is the name among some that was probably meant, or "".
type suggest func(got string, names []string) string

// parseFold replaces the parameters of a fold's SQL by $1, $2 …, each occurrence by its own, so that each has the type
// that its place asks for. Strings, quoted names and comments are left as they are.
func parseFold(sql string, nearest suggest) (text string, params []param, err error) {
	var b strings.Builder
	for i := 0; i < len(sql); {
		end := skipOpaque(sql, i)
		switch {
		case end > i:
		case strings.HasPrefix(sql[i:], "::"):
			end = i + 2
		case isWord(sql[i]) && sql[i] != '$':
			for end < len(sql) && isWord(sql[end]) {
				end++
			}
		case sql[i] == '$' && i+1 < len(sql) && sql[i+1] >= '0' && sql[i+1] <= '9':
			return "", nil, fmt.Errorf("it has a $%c; write :key, :data.amount and so on for values of the event", sql[i+1])
		case sql[i] == ':' && i+1 < len(sql) && startsName(sql[i+1]):
			p, behind, err := parseParam(sql, i+1, nearest)
			if err != nil {
				return "", nil, err
			}
			params = append(params, p)
			fmt.Fprintf(&b, "$%d", len(params))
			i = behind
			continue
		default:
			end = i + 1
		}
		b.WriteString(sql[i:end])
		i = end
	}
	return strings.TrimSuffix(strings.TrimSpace(b.String()), ";"), params, nil
}

func startsName(c byte) bool { return isWord(c) && (c < '0' || c > '9') || c == '"' }

// parseParam reads the name behind a colon: words, or anything in double quotes, with dots between.
func parseParam(sql string, i int, nearest suggest) (p param, end int, err error) {
	for {
		start := i
		name := ""
		if sql[i] == '"' {
			i = plainEnd(sql, i)
			name = strings.ReplaceAll(strings.Trim(sql[start:i], `"`), `""`, `"`)
		} else {
			for i < len(sql) && isWord(sql[i]) {
				i++
			}
			name = sql[start:i]
		}
		if p.root == "" {
			p.root = name
		} else {
			p.path = append(p.path, name)
		}
		if i+1 >= len(sql) || sql[i] != '.' || !startsName(sql[i+1]) {
			break
		}
		i++
	}
	switch {
	case !slices.Contains(foldParams, p.root):
		fix := "there are :" + strings.Join(foldParams, ", :")
		if near := nearest(p.root, foldParams); near != "" {
			fix = "did you mean :" + near + "?"
		}
		return p, i, fmt.Errorf("an event has no :%s; %s", p.root, fix)
	case len(p.path) > 0 && !p.hasPath():
		return p, i, fmt.Errorf("%s: an event's %s has no members", p, p.root)
	}
	return p, i, nil
}

// skipOpaque is behind the string, quoted name or comment that starts at i, or i.
func skipOpaque(sql string, i int) int {
	switch c := sql[i]; {
	case c == '\'' || c == '"':
		return plainEnd(sql, i)
	case (c == 'E' || c == 'e') && i+1 < len(sql) && sql[i+1] == '\'' && (i == 0 || !isWord(sql[i-1])):
		return escapedEnd(sql, i+1)
	case strings.HasPrefix(sql[i:], "--"):
		if n := strings.IndexByte(sql[i:], '\n'); n >= 0 {
			return i + n
		}
		return len(sql)
	case strings.HasPrefix(sql[i:], "/*"):
		return commentEnd(sql, i)
	case c == '$' && (i == 0 || !isWord(sql[i-1])):
		return dollarEnd(sql, i)
	}
	return i
}

// plainEnd is behind the quote that ends what starts at i; a doubled one is part of it.
func plainEnd(sql string, i int) int {
	for j := i + 1; j < len(sql); j++ {
		switch {
		case sql[j] != sql[i]:
		case j+1 < len(sql) && sql[j+1] == sql[i]:
			j++
		default:
			return j + 1
		}
	}
	return len(sql)
}

// escapedEnd is behind a string with backslashes whose first quote is at i.
func escapedEnd(sql string, i int) int {
	for i++; i < len(sql); i++ {
		switch sql[i] {
		case '\\':
			i++
		case '\'':
			return i + 1
		}
	}
	return len(sql)
}

// commentEnd is behind a comment, which may hold others.
func commentEnd(sql string, i int) int {
	for depth := 0; i < len(sql); {
		switch {
		case strings.HasPrefix(sql[i:], "/*"):
			depth++
			i += 2
		case strings.HasPrefix(sql[i:], "*/"):
			i += 2
			if depth--; depth == 0 {
				return i
			}
		default:
			i++
		}
	}
	return len(sql)
}

// dollarEnd is behind a string such as $$…$$ or $a$…$a$ that starts at i, or i when none does.
func dollarEnd(sql string, i int) int {
	j := i + 1
	for j < len(sql) && sql[j] != '$' && isWord(sql[j]) && (j > i+1 || sql[j] < '0' || sql[j] > '9') {
		j++
	}
	if j >= len(sql) || sql[j] != '$' {
		return i
	}
	tag := sql[i : j+1]
	if n := strings.Index(sql[j+1:], tag); n >= 0 {
		return j + 1 + n + len(tag)
	}
	return len(sql)
}
