package main

import (
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Every command and flag says what it is for, in one form, and the examples are command lines that are understood.
func TestHelp(t *testing.T) {
	root := newRoot()
	examples := 0
	each(root, func(cmd *cobra.Command) {
		if parent := cmd.Parent(); parent != nil && parent.Name() == "completion" {
			return // cobra's own words
		}
		if s := cmd.Short; len(s) < 10 || len(s) > 100 || !unicode.IsUpper(rune(s[0])) || strings.HasSuffix(s, ".") {
			t.Errorf("%s: %q is no short line", cmd.CommandPath(), s)
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || unicode.IsUpper(rune(f.Usage[0])) && !strings.HasPrefix(f.Usage, "Postgres") && !strings.HasPrefix(f.Usage, "Redis") && !strings.HasPrefix(f.Usage, "SQL") || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%s --%s: %q", cmd.CommandPath(), f.Name, f.Usage)
			}
		})
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "walrill ") {
				examples++
				understood(t, line)
			}
		}
	})
	if examples < 20 {
		t.Errorf("found %d examples", examples)
	}
}

func each(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		each(c, f)
	}
}

// understood wants each command of an example to be one, with flags and arguments that it takes. What stands behind three spaces is a remark.
func understood(t *testing.T, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, "   ")
	for part := range strings.SplitSeq(line, " | ") {
		part, _, _ = strings.Cut(part, " > ")
		cmd, rest, err := newRoot().Find(words(part)[1:])
		if err == nil && cmd.HasParent() {
			err = cmd.ParseFlags(rest)
		}
		if err == nil {
			err = cmd.ValidateArgs(cmd.Flags().Args())
		}
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// words splits a command line as a shell does, as far as examples need it.
func words(line string) (list []string) {
	var quote rune
	var word strings.Builder
	for _, r := range line + " " {
		switch {
		case r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote = r
		case quote == 0 && r == ' ':
			list = append(list, word.String())
			word.Reset()
		default:
			word.WriteRune(r)
		}
	}
	return list
}
