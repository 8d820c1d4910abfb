package repo_test

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var link = regexp.MustCompile(`\]\(\s*<?([^)\s>]+)|(?:src|href)="([^"]+)"|(?m:^\[[^\]]+\]:\s*(\S+))`)

// TestLinks follows the links of all pages to files and to headings, and finds pages that nothing leads to.
func TestLinks(t *testing.T) {
	pages := map[string]string{}
	for name, content := range textFiles(t) {
		if strings.HasSuffix(name, ".md") {
			pages[name] = codeBlock.ReplaceAllString(content, "")
		}
	}
	reached := map[string]bool{"README.md": true, "cmd/walrill/testdata/script/README.md": true} // the second is for who writes scenarios
	for name, content := range pages {
		for _, m := range link.FindAllStringSubmatch(codeSpan.ReplaceAllString(content, ""), -1) {
			target, heading, _ := strings.Cut(m[1]+m[2]+m[3], "#")
			if strings.Contains(target, ":") {
				continue // a URL
			}
			page := name
			if target != "" {
				page = path.Join(path.Dir(name), target)
				if strings.HasPrefix(target, "/") {
					page = path.Clean(target[1:])
				}
				if info, err := os.Stat(filepath.Join(root, page)); err != nil {
					t.Errorf("%s links to %s, which does not exist", name, target)
				} else if info.IsDir() {
					page = path.Join(page, "README.md")
				}
				if page != name {
					reached[page] = true
				}
			}
			if heading != "" && !headings(pages[page])[heading] {
				t.Errorf("%s links to %s#%s: there is no such heading", name, target, heading)
			}
		}
	}
	for name := range pages {
		if !reached[name] {
			t.Errorf("nothing links to %s", name)
		}
	}
}

var (
	heading  = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	unlinked = regexp.MustCompile("[^a-z0-9_ -]")
)

// headings are the anchors of a page, as GitHub makes them.
func headings(page string) map[string]bool {
	anchors := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		anchors[strings.ReplaceAll(unlinked.ReplaceAllString(strings.ToLower(strings.TrimSpace(m[1])), ""), " ", "-")] = true
	}
	return anchors
}
