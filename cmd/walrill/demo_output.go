package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/walrill/walrill/event"
)

// demoOutput writes what people read. An error of writing ends nothing: what was
// started must be stopped all the same.
type demoOutput struct {
	printer  printer
	terminal bool
	parts    int  // headings so far
	live     bool // the last line is the progress line
}

func newDemoOutput(w io.Writer) *demoOutput {
	terminal := isTerminal(w)
	return &demoOutput{printer: printer{out: bufio.NewWriter(w), color: terminal}, terminal: terminal}
}

// More terminal attributes.
const (
	red   = "31"
	green = "32"
)

// heading starts a part: what happens, and why it matters.
func (o *demoOutput) heading(what, why string) {
	o.parts++
	o.line("")
	o.line("%s", o.paint(bold, fmt.Sprintf("%d  %s", o.parts, what)))
	o.line("   %s", o.paint(dim, why))
}

// line writes a line, in the place of the progress line if there is one.
func (o *demoOutput) line(format string, args ...any) {
	o.clear()
	fmt.Fprintf(o.printer.out, format+"\n", args...)
	o.flush()
}

// field writes a named value.
func (o *demoOutput) field(name, format string, args ...any) {
	o.line("   %-10s%s", name, fmt.Sprintf(format, args...))
}

// event writes an event behind a label, as `walrill tail` does.
func (o *demoOutput) event(label string, e *event.Event) {
	o.clear()
	fmt.Fprintf(o.printer.out, "   %s", label)
	_ = o.printer.print(e)
	o.flush()
}

// file shows a file.
func (o *demoOutput) file(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("demo: show configuration: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		code, comment, found := strings.Cut(strings.TrimSuffix(line, "\n"), "#")
		if found {
			comment = o.paint(dim, "#"+comment)
		}
		o.line("   %s%s", code, comment)
	}
	return nil
}

// progress replaces the last line of a terminal; elsewhere it writes nothing.
func (o *demoOutput) progress(text string) {
	if !o.terminal {
		return
	}
	o.clear()
	if text != "" {
		o.printer.out.WriteString("   " + o.paint(cyan, text)) //nolint:errcheck // see demoOutput
		o.live = true
	}
	o.flush()
}

func (o *demoOutput) clear() {
	if o.live {
		o.printer.out.WriteString("\r\x1b[K") //nolint:errcheck // see demoOutput
		o.live = false
	}
}

func (o *demoOutput) flush() { _ = o.printer.out.Flush() }

func (o *demoOutput) paint(attribute, text string) string { return o.printer.paint(attribute, text) }

// kept says how to use what was left running, and how to stop it.
func (o *demoOutput) kept(s *demoServers) {
	if err := s.writeStop(); err != nil {
		o.line("%v", err)
	}
	config := s.path("walrill.yaml")
	o.heading("Everything goes on running", "Until you stop it. Things to try:")
	o.field("Postgres", "%s", s.pgURL())
	o.field("Redis", "%s", s.redis.URL())
	o.field("walrill", "http://%s, process %d, log %s", s.http, s.pid, s.path("walrill.log"))
	o.field("config", "%s", config)
	o.line("")
	for _, try := range [][2]string{
		{"watch the shop's events", os.Args[0] + " tail -c " + config + " shop"},
		{"make one", `psql "` + s.pgURL() + `" -c "INSERT INTO orders (customer, status, total) VALUES (1, 'placed', 9.90)"`},
		{"see what walrill does", os.Args[0] + " status -c " + config},
		{"read a stream with Redis's own tool", fmt.Sprintf("redis-cli -p %d XREVRANGE bank + - COUNT 3", s.redis.Port())},
		{"stop and remove it all", "sh " + s.path("stop")},
	} {
		o.line("   %s", o.paint(dim, "# "+try[0]))
		o.line("   %s", try[1])
	}
}

// command writes what a person could have typed, and what it is for.
func (o *demoOutput) command(text, comment string) {
	o.line("   %s  %s", o.paint(bold, text), o.paint(dim, "# "+comment))
}

// demoCount writes a number with a comma every three digits.
func demoCount[N int | uint64](n N) string { return demoGroup(fmt.Sprint(n)) }

// demoGroup does the same to a number as text, which may have decimals.
func demoGroup(number string) string {
	s, decimals, _ := strings.Cut(number, ".")
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if decimals == "" {
		return s
	}
	return s + "." + decimals
}

// demoMoney writes cents as an amount that Postgres can read.
func demoMoney(cents int) string { return fmt.Sprintf("%d.%02d", cents/100, cents%100) }
