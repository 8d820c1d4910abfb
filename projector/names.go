package projector

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

func quoteIdent(name string) string { return pgx.Identifier{name}.Sanitize() }

func qualified(schema, name string) string { return pgx.Identifier{schema, name}.Sanitize() }

// list joins the names with commas, each as format says, such as `m.%s`.
func list(format string, names []string) string {
	parts := make([]string, len(names))
	for i, n := range names {
		parts[i] = strings.ReplaceAll(format, "%s", quoteIdent(n))
	}
	return strings.Join(parts, ", ")
}

// equal compares the columns of two aliases.
func equal(a, b string, names []string) string {
	parts := make([]string, len(names))
	for i, n := range names {
		parts[i] = fmt.Sprintf("%s.%s = %s.%s", a, quoteIdent(n), b, quoteIdent(n))
	}
	return strings.Join(parts, " AND ")
}

// differs compares two rows byte by byte, whatever their types: 1.0 and 1.00 differ.
func differs(a, b string, names []string) string {
	return fmt.Sprintf("ROW(%s)::record *<> ROW(%s)::record", list(a+".%s", names), list(b+".%s", names))
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// identifier makes a name that needs no quotes of a pipeline's.
func identifier(name string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_':
			return c
		case c >= 'A' && c <= 'Z':
			return c + 'a' - 'A'
		}
		return '_'
	}, name)
}
