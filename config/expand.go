package config

import (
	"fmt"
	"strings"
)

// expand replaces the variables of a value:
//
//	${VAR}           the variable's value; an error when it is not set
//	${VAR:-default}  the default when the variable is not set or empty;
//	                 it ends at the first `}` and holds no variable itself
//	$${              a literal `${`
//
// A `$` before anything else is itself. It works on a value that YAML has
// already been read from, so a variable's value can never become structure.
// used reports whether a variable was replaced, problems what could not be.
func expand(text string, env func(string) (string, bool)) (out string, used bool, problems []string) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		if !found {
			b.WriteString(text)
			return b.String(), used, problems
		}
		if strings.HasSuffix(before, "$") {
			b.WriteString(before[:len(before)-1] + "${")
			text = rest
			continue
		}
		b.WriteString(before)
		inner, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", true, append(problems, "`${` is without its `}`; for a literal `${` write `$${`")
		}
		value, problem := variable(inner, env)
		if problem != "" {
			problems = append(problems, problem)
		}
		b.WriteString(value)
		text, used = after, true
	}
}

// variable looks up what stands between `${` and `}`.
func variable(inner string, env func(string) (string, bool)) (value, problem string) {
	name, fallback, hasFallback := strings.Cut(inner, ":-")
	switch {
	case !isVariable(name):
		// What is not a name may be part of a password: it is not repeated.
		return "", "`${…}` does not hold the name of a variable, with or without a default as in `${VAR:-default}`; " +
			"for a literal `${` write `$${`"
	case strings.Contains(fallback, "${"):
		return "", fmt.Sprintf("the default of `${%s:-…}` cannot hold another variable", name)
	}
	if env != nil {
		if v, set := env(name); set && (v != "" || !hasFallback) {
			return v, ""
		}
	}
	if !hasFallback {
		return "", fmt.Sprintf("the variable `%s` is not set; set it, or give a default: `${%s:-value}`", name, name)
	}
	return fallback, ""
}

func isVariable(name string) bool {
	for i, c := range []byte(name) {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
