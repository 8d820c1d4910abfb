package config

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

var (
	// passwordInURL finds scheme://user:password@ in any text.
	passwordInURL = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://[^\s:/?#@"]*):[^\s"]*@`)
	// passwordByName finds password=… and its like, quoted or not.
	passwordByName = regexp.MustCompile(`(?i)([a-z_]*(?:password|passwd|pwd|secret)[a-z_]*\s*=\s*)('(?:[^'\\]|\\.)*'|"[^"]*"|[^\s&;,"']*[^\s&;,"':.)])`)
)

// Redact takes passwords out of text that walrill did not write, such as a
// driver's error: those of the connection strings given, in every form in
// which they are usually printed, and whatever stands where a URL or
// keyword/value text has its password. A password that its own connection
// string shows elsewhere, as when user and password are both postgres, is
// left alone: hiding the word would tell more than it hides.
func Redact(text string, secrets ...URL) string {
	hide := map[string]string{}
	for _, u := range secrets {
		if u.IsZero() {
			continue
		}
		for _, form := range u.open().anatomy.forms() {
			hide[form] = mask
		}
		hide[u.Reveal()] = u.String()
		hide[unquote(strconv.Quote(u.Reveal()))] = unquote(strconv.Quote(u.String()))
	}
	// The longest first, so that none is cut by another that it contains.
	words := slices.SortedFunc(maps.Keys(hide), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
	})
	var pairs []string
	for _, word := range words {
		pairs = append(pairs, word, hide[word])
	}
	text = strings.NewReplacer(pairs...).Replace(text)
	text = passwordInURL.ReplaceAllString(text, "${1}:"+mask+"@")
	return passwordByName.ReplaceAllString(text, "${1}"+mask)
}

// forms gives the secrets in the forms that a text may hold them in.
func (a anatomy) forms() []string {
	visible := strings.FieldsFunc(a.shown, func(c rune) bool {
		return c != '_' && c != '-' && !unicode.IsLetter(c) && !unicode.IsDigit(c)
	})
	var all []string
	for _, written := range a.secrets {
		for _, plain := range decoded(written) {
			if plain == "" || slices.Contains(visible, plain) {
				continue
			}
			all = append(all, plain, url.QueryEscape(plain), url.PathEscape(plain),
				strings.TrimPrefix(url.UserPassword("", plain).String(), ":"),
				strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(plain),
				unquote(strconv.Quote(plain)))
			if quoted, err := json.Marshal(plain); err == nil {
				all = append(all, unquote(string(quoted)))
			}
		}
	}
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

func unquote(s string) string { return s[1 : len(s)-1] }

// decoded gives a secret as written and as each way of reading it has it.
func decoded(written string) []string {
	all := []string{written, unbackslash(written)}
	if s, err := url.PathUnescape(written); err == nil {
		all = append(all, s)
	}
	if s, err := url.QueryUnescape(written); err == nil {
		all = append(all, s)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// unbackslash drops the backslashes of a keyword/value string.
func unbackslash(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
