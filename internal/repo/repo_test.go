// Package repo_test keeps the promises of the repository as a whole: which
// package imports which, the size of files, and that documents name targets
// and files that exist.
package repo_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	root   = "../.."
	module = "github.com/walrill/walrill"
)

// imports says which of our packages a package may import. A package below
// one of these follows its rule and may import its neighbours. The packages
// under bench, cmd and internal put the others together and may import any,
// cmd excepted.
var imports = map[string][]string{
	"change":    nil,
	"event":     nil,
	"config":    nil,
	"keys":      {"event"},
	"web":       nil,
	"capture":   {"change"},
	"transform": {"change", "event"},
	"sink":      {"event"},
	"consumer":  {"event"},
	"projector": {"event"},
	"bridge":    {"change", "event"},
	"mapfile":   {"change", "config", "consumer", "event", "transform"},
}

var (
	freeImports  = []string{"bench", "cmd", "internal"}
	standardOnly = []string{"change", "event"}
)

const maxLines = 500 // of a Go file that is not a test

func TestImports(t *testing.T) {
	cmd := exec.Command("go", "list", "-e", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		pkg, ours := strings.CutPrefix(fields[0], module+"/")
		if !ours {
			continue
		}
		for _, imported := range fields[1:] {
			checkImport(t, pkg, imported)
		}
		area, _, _ := strings.Cut(pkg, "/")
		if _, ok := imports[area]; !ok && !slices.Contains(freeImports, area) {
			t.Errorf("package %s has no rule: add it to the table imports", pkg)
		}
	}
}

func checkImport(t *testing.T, pkg, imported string) {
	area, _, _ := strings.Cut(pkg, "/")
	target, ours := strings.CutPrefix(imported, module+"/")
	if !ours {
		host, _, _ := strings.Cut(imported, "/")
		if slices.Contains(standardOnly, area) && strings.Contains(host, ".") {
			t.Errorf("%s imports %s: it may import the standard library only", pkg, imported)
		}
		return
	}
	targetArea, _, _ := strings.Cut(target, "/")
	switch {
	case targetArea == "cmd" && area != "cmd":
		t.Errorf("%s imports %s: nothing imports cmd", pkg, target)
	case targetArea == area, slices.Contains(freeImports, area):
	case !slices.Contains(imports[area], targetArea):
		t.Errorf("%s imports %s: of ours it may import %q only", pkg, target, imports[area])
	}
}

func TestFileSizes(t *testing.T) {
	for name, content := range textFiles(t) {
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		if n := strings.Count(content, "\n"); n > maxLines {
			t.Errorf("%s has %d lines, more than %d: split it by subject", name, n, maxLines)
		}
	}
}

func TestNothingLeftToDo(t *testing.T) {
	marker := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME)\b`)
	for name, content := range textFiles(t) {
		if name == "internal/repo/repo_test.go" {
			continue
		}
		number := 0
		for line := range strings.Lines(content) {
			number++
			if marker.MatchString(line) {
				t.Errorf("%s:%d: %s", name, number, strings.TrimSpace(line))
			}
		}
	}
}

func TestReadmeTargets(t *testing.T) {
	files := textFiles(t)
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z-]*):`).FindAllStringSubmatch(files["Makefile"], -1) {
		targets[m[1]] = true
	}
	if len(targets) == 0 {
		t.Fatal("found no target in the Makefile")
	}
	for _, target := range makeTargets(files["README.md"]) {
		if !targets[target] {
			t.Errorf("README.md names `make %s`, which the Makefile does not have", target)
		}
	}
}

var (
	codeBlock = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	codeSpan  = regexp.MustCompile("`[^`\n]+`")
	comment   = regexp.MustCompile(`(?m)(^|\s)#.*$`)
	makeCall  = regexp.MustCompile(`\bmake((?:[ \t]+[\w=./:-]+)+)`)
)

// makeTargets returns the targets of the make commands in a document's code.
func makeTargets(markdown string) []string {
	code := comment.ReplaceAllString(strings.Join(codeBlock.FindAllString(markdown, -1), "\n"), "")
	code += "\n" + strings.Join(codeSpan.FindAllString(codeBlock.ReplaceAllString(markdown, ""), -1), "\n")
	var targets []string
	for _, call := range makeCall.FindAllStringSubmatch(code, -1) {
		for _, word := range strings.Fields(call[1]) {
			if !strings.Contains(word, "=") && !strings.HasPrefix(word, "-") {
				targets = append(targets, word)
			}
		}
	}
	return targets
}

func TestMakeTargets(t *testing.T) {
	text := "Please make sure. Run `make lint`, `make KEEP=1 demo`.\n```sh\nmake test # make haste\nmake -s build bench KEEP=1\n```\n"
	got := makeTargets(text)
	if want := []string{"test", "build", "bench", "lint", "demo"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// textFiles returns the repository's text files by their slash-separated path.
func textFiles(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name == ".git" || name == "bin" || entry.Name() == "node_modules" {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(filepath.Join(root, name))
		if err == nil && !bytes.ContainsRune(content, 0) {
			files[name] = string(content)
		}
		return err
	})
	if err != nil {
		t.Fatalf("read the repository: %v", err)
	}
	return files
}
