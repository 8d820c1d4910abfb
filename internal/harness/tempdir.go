package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	tempPrefix = "walrill-"
	lockName   = "owner.lock"
)

// tempDir is a directory that is removed by its owner or, when the owner was
// killed, by the next process that makes one: its lock is free then.
type tempDir struct {
	path string
	lock *os.File
}

func newTempDir(kind string) (*tempDir, error) {
	sweep(os.TempDir())
	path, err := os.MkdirTemp("", tempPrefix+kind)
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	lock, err := lockFile(filepath.Join(path, lockName), true)
	if err != nil {
		os.RemoveAll(path)
		return nil, fmt.Errorf("make directory: %w", err)
	}
	// os.MkdirTemp makes it private, and Postgres may run as another user.
	if err := os.Chmod(path, 0o755); err != nil {
		return nil, fmt.Errorf("open directory to the server: %w", err)
	}
	return &tempDir{path, lock}, nil
}

func (d *tempDir) remove() error {
	defer d.lock.Close()
	return os.RemoveAll(d.path)
}

// sweep removes what killed processes left in parent. A directory of the last
// minute is left alone: its owner may be about to lock it, and an orphaned
// server needs a moment to end.
func sweep(parent string) {
	locks, _ := filepath.Glob(filepath.Join(parent, tempPrefix+"*", lockName))
	for _, path := range locks {
		if info, err := os.Stat(path); err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		lock, err := lockFile(path, false)
		if err != nil {
			continue // its owner lives
		}
		dir := filepath.Dir(path)
		killThoseIn(filepath.Join(dir, dataName))
		removeSharedMemory(filepath.Join(dir, dataName, "postmaster.pid"))
		os.RemoveAll(dir)
		lock.Close()
	}
}
