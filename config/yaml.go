package config

import (
	"bytes"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// kind is what a node of the file is, in the words of its errors.
type kind string

const (
	kindText    kind = "text"
	kindNumber  kind = "a number"
	kindBool    kind = "true or false"
	kindNothing kind = "nothing"
	kindList    kind = "a list"
	kindMapping kind = "a mapping"
	kindBad     kind = "" // reported already: who reads it says nothing more
)

// node is a value of the file. The tree of nodes is all that the rest of the
// package sees of YAML; anchors, aliases, merges and tags are not in it.
type node struct {
	kind    kind
	at      Pos     // where the value starts
	owner   Pos     // where the field's name is; the value's place when it has none
	text    string  // of text, a number or true or false: as written, without quotes
	quoted  bool    // text was in quotes
	entries []entry // of a mapping, in the order written, names distinct
	items   []*node // of a list
}

// entry is one `name: value` of a mapping.
type entry struct {
	name  string
	at    Pos
	value *node
}

// treeBuilder turns the YAML parser's tree into ours.
type treeBuilder struct {
	*reader
	file string
}

// tree reads YAML into nodes. It is nil when errors leave nothing to read.
func (r *reader) tree(file string, data []byte) *node {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	r.lines = strings.Split(string(data), "\n")
	b := treeBuilder{reader: r, file: file}
	start := Pos{file, 1, 1}
	if len(data) > maxFile {
		r.fail(start, "", "the file is larger than %d KiB; is it the right one?", maxFile>>10)
		return nil
	}
	for i, line := range b.lines {
		if !utf8.ValidString(line) {
			r.fail(Pos{file, i + 1, 1}, "", "the line is not UTF-8; save the file as UTF-8")
			return nil
		}
	}
	parsed, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		b.syntax(err)
		return nil
	}
	return b.document(parsed, start)
}

// document gives the file's one document.
func (b treeBuilder) document(f *ast.File, start Pos) *node {
	var root *node
	for _, doc := range f.Docs {
		if _, directive := doc.Body.(*ast.DirectiveNode); doc.Body == nil || directive {
			continue
		}
		if root != nil {
			b.fail(b.pos(doc.Start), "", "a second document starts here; a file is one pipeline, remove the `---`")
			return nil
		}
		root = b.node(doc.Body, start)
	}
	if root == nil {
		b.fail(start, "", "the file is empty; it needs %s", b.needs)
	}
	return root
}

// node builds the node of a value whose field's name is at owner.
func (b treeBuilder) node(n ast.Node, owner Pos) *node {
	out := &node{at: b.pos(n.GetToken()), owner: owner}
	switch n := n.(type) {
	case *ast.StringNode:
		out.kind, out.text = kindText, n.Value
		out.quoted = n.Token.Type == token.DoubleQuoteType || n.Token.Type == token.SingleQuoteType
	case *ast.LiteralNode:
		out.kind, out.text, out.quoted = kindText, n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		out.kind, out.text = kindNumber, n.GetToken().Value
	case *ast.BoolNode:
		out.kind, out.text = kindBool, n.GetToken().Value
	case *ast.NullNode:
		out.kind = kindNothing
	case *ast.SequenceNode:
		out.kind = kindList
		for _, item := range n.Values {
			out.items = append(out.items, b.node(item, b.pos(item.GetToken())))
		}
	case *ast.MappingNode:
		out.kind, out.entries = kindMapping, b.entries(n.Values)
	case *ast.MappingValueNode:
		out.kind, out.entries = kindMapping, b.entries([]*ast.MappingValueNode{n})
	default:
		b.fail(out.at, "", "anchors (`&`), aliases (`*`) and tags (`!`) are not available here; "+
			"write the value out, in quotes if it starts with such a character")
	}
	// The parser's token of a block mapping is its first colon.
	if len(out.entries) > 0 && n.GetToken().Type == token.MappingValueType {
		out.at = out.entries[0].at
	}
	return out
}

// entries builds a mapping's entries and reports names written twice.
func (b treeBuilder) entries(values []*ast.MappingValueNode) []entry {
	var list []entry
	first := map[string]Pos{}
	for _, v := range values {
		at := b.pos(v.Key.GetToken())
		name, ok := keyText(v.Key)
		if !ok {
			b.fail(at, "", "a name must be plain text, as in `name: value`; "+
				"`?`, `<<`, anchors, aliases and tags are not available here")
			continue
		}
		if before, twice := first[name]; twice {
			b.fail(at, "", "%s is written twice, first at line %d; keep one", show(name), before.Line)
			continue
		}
		first[name] = at
		list = append(list, entry{name, at, b.node(v.Value, at)})
	}
	return list
}

// keyText is a mapping key as written: a stream may well be called 2024 or true.
func keyText(key ast.MapKeyNode) (string, bool) {
	switch key := key.(type) {
	case *ast.StringNode:
		return key.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
		return key.GetToken().Value, true
	}
	return "", false
}

// pos is a token's place, kept within the file whatever the parser says.
func (b treeBuilder) pos(t *token.Token) Pos {
	if t == nil || t.Position == nil {
		return Pos{b.file, 1, 1}
	}
	return Pos{b.file, min(max(t.Position.Line, 1), len(b.lines)), max(t.Position.Column, 1)}
}

// syntax reports what is not YAML. The parser's own text is left out but for
// its message, because it prints the lines around, with whatever they hold.
func (b treeBuilder) syntax(err error) {
	at, msg := Pos{b.file, 1, 1}, "cannot be read"
	if e, ok := errors.AsType[yaml.Error](err); ok {
		at, msg = b.pos(e.GetToken()), strings.NewReplacer("\t", `\t`, "\n", " ").Replace(e.GetMessage())
	}
	b.fail(at, "", "not valid YAML: %s; %s", msg, syntaxHint(b.lines[at.Line-1], at.Column))
}

// syntaxHint guesses from the line what its writer had in mind.
func syntaxHint(line string, column int) string {
	text := strings.TrimSpace(line)
	before := []rune(line)
	before = before[:min(column-1, len(before))]
	switch {
	case strings.HasPrefix(text, "*"):
		return "write the name in quotes: `\"*\":`"
	case strings.HasSuffix(string(before), "$"):
		return "inside { } and [ ] write a variable in quotes: `\"${VAR}\"`"
	case strings.HasPrefix(strings.TrimLeft(line, " "), "\t"):
		return "indent with spaces, not with tabs"
	}
	return "check the indentation, and put a value with special characters in quotes"
}
