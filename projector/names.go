package projector

import (
	"fmt"
	"hash/crc32"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

func quoteIdent(name string) string { return pgx.Identifier{short(name)}.Sanitize() }

func qualified(schema, name string) string {
	return pgx.Identifier{short(schema), short(name)}.Sanitize()
}

// maxName is how long a name in Postgres can be, in bytes. It cuts longer ones off, and two of them may then be one.
const maxName = 63

// short is the name that is made of one that is too long: only those that are put together of a view's or a table's are.
func short(name string) string {
	if len(name) <= maxName {
		return name
	}
	cut := name[:maxName-len("~00000000")]
	for !utf8.ValidString(cut) {
		cut = cut[:len(cut)-1]
	}
	return fmt.Sprintf("%s~%08x", cut, crc32.ChecksumIEEE([]byte(name)))
}

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
