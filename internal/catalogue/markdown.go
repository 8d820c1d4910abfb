package catalogue

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Markdown is the catalogue as a page.
func (c *Catalogue) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", c.Pipeline)
	for i := range c.Streams {
		s := &c.Streams[i]
		fmt.Fprintf(&b, "\n## Stream %s\n\n", code(s.Name))
		paragraph(&b, s.Description)
		paragraph(&b, owner(s.Owner))
		if n := len(s.Keys); n > 1 {
			fmt.Fprintf(&b, "%d partitions, %s to %s.\n", n, code(s.Keys[0]), code(s.Keys[n-1]))
		} else {
			b.WriteString("One partition.\n")
		}
		for j := range s.Events {
			s.Events[j].markdown(&b)
		}
	}
	return b.String()
}

func (e *Event) markdown(b *strings.Builder) {
	if e.Type == "" {
		b.WriteString("\n### Events of the application\n\n")
		paragraph(b, e.Description)
		where := "rows of " + code(e.Table)
		if e.Prefix != "" {
			where = "logical messages with the prefix " + code(e.Prefix)
		}
		fmt.Fprintf(b, "Types and data that are not declared are the application's, which writes them as %s.\n", where)
		return
	}
	fmt.Fprintf(b, "\n### %s\n\n", code(e.Type))
	paragraph(b, e.Description)
	switch {
	case e.Opaque:
		b.WriteString("Seen in the stream; its data is not declared")
	case e.View:
		fmt.Fprintf(b, "Of changes of the view %s", code(e.Table))
	case e.Prefix != "":
		fmt.Fprintf(b, "In logical messages with the prefix %s", code(e.Prefix))
	default:
		fmt.Fprintf(b, "On %s of %s", strings.Join(e.On, ", "), code(e.Table))
	}
	if len(e.Key) > 0 && e.hasData() {
		fmt.Fprintf(b, "; key %s", code(joined(e.Key)))
	}
	if e.Version > 0 {
		fmt.Fprintf(b, "; version %d", e.Version)
		if !e.Published {
			b.WriteString(", nothing published yet")
		}
		var earlier []string
		for i := range e.Earlier {
			earlier = append(earlier, fmt.Sprint(e.Earlier[i].Version))
		}
		if len(earlier) > 0 {
			fmt.Fprintf(b, ", other versions %s", strings.Join(earlier, ", "))
		}
	}
	b.WriteString(".\n")
	if e.Owner != "" {
		fmt.Fprintf(b, "\n%s\n", owner(e.Owner))
	}
	if len(e.Fields) > 0 {
		b.WriteString("\n| data | JSON | column | |\n| --- | --- | --- | --- |\n")
		rows(b, "", e.Fields)
	}
	if e.Sample != nil && len(e.Sample.Data) > 0 {
		var text bytes.Buffer
		if json.Indent(&text, e.Sample.Data, "", "  ") == nil {
			fmt.Fprintf(b, "\n```json\n%s\n```\n", text.String())
		}
	}
}

func rows(b *strings.Builder, prefix string, fields []Field) {
	for i := range fields {
		f := &fields[i]
		kind := f.JSON
		if f.Nullable && kind != "any" {
			kind += " or null"
		}
		source := ""
		if f.Column != "" {
			source = code(f.Column)
		}
		if f.Type != "" {
			source = strings.TrimSpace(source + " " + f.Type)
		}
		var notes []string
		if f.Description != "" {
			notes = append(notes, f.Description)
		}
		if f.Mask != "" {
			notes = append(notes, "masked: "+f.Mask)
		}
		if len(f.Enum) > 0 {
			notes = append(notes, "one of "+code(strings.Join(f.Enum, "`, `")))
		}
		if !f.Required {
			notes = append(notes, "not in every event")
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", cell(code(prefix+f.Name)), kind, cell(source), cell(strings.Join(notes, "; ")))
		inside := "."
		if f.JSON == "array" {
			inside = "[]."
		}
		rows(b, prefix+f.Name+inside, f.Fields)
	}
}

func code(text string) string { return "`" + text + "`" }

var cells = strings.NewReplacer("|", `\|`, "\n", " ")

func cell(text string) string { return cells.Replace(text) }

func paragraph(b *strings.Builder, text string) {
	if text != "" {
		fmt.Fprintf(b, "%s\n\n", text)
	}
}

func owner(name string) string {
	if name == "" {
		return ""
	}
	return "Owner: " + name
}

func joined(key []string) string { return strings.Join(key, ", ") }
