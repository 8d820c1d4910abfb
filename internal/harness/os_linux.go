package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithParent makes the kernel send sig to cmd's process when we die. With no
// signal (0) the process outlives us and the terminal that we were started from.
func dieWithParent(cmd *exec.Cmd, sig syscall.Signal) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig, cmd.SysProcAttr.Setsid = sig, sig == 0
}

// account is the user that Postgres runs as; nil is ourselves.
type account struct{ uid, gid int }

// postgresAccount is nil, or, for root, the user postgres (else nobody):
// Postgres refuses to run as root.
func postgresAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, fmt.Errorf("find a user to run Postgres as: %w; Postgres refuses to run as root, so create one with `useradd --system postgres`", err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return &account{uid, gid}, errors.Join(err1, err2)
}

// own gives path to the account.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// reach says what keeps the account from entering path, if anything: root's own
// directories and those of testing.T.TempDir are closed to others.
func (a *account) reach(path string) error {
	if a == nil {
		return nil
	}
	for dir := path; ; dir = filepath.Dir(dir) {
		var st syscall.Stat_t
		if err := syscall.Stat(dir, &st); err != nil {
			return fmt.Errorf("look at %s: %w", dir, err)
		}
		if st.Mode&0o001 == 0 && st.Uid != uint32(a.uid) {
			return fmt.Errorf("enter %s: %s is closed to user %d, whom Postgres runs as because it refuses root; `chmod o+x %s`, or choose another place", path, dir, a.uid, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// run makes cmd run as the account.
func (a *account) run(cmd *exec.Cmd) {
	if a == nil {
		return
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)},
	}
}

// lockFile takes the exclusive lock on path, creating the file when missing;
// closing the file gives it back, as does our death. Without wait it fails
// when another holds the lock.
func lockFile(path string, wait bool) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// killThoseIn sends SIGKILL to every process that works in dir and returns how
// many there were. Postgres's children sit in the data directory, and that
// still tells whose they are after their parent has gone.
func killThoseIn(dir string) int {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real // as the kernel names it
	}
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	n := 0
	for _, link := range links {
		if at, err := os.Readlink(link); err != nil || at != dir {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
			n++
		}
	}
	return n
}

// removeSharedMemory removes the System V segment that a killed postmaster
// left: nobody else would, once its data directory has gone. One that is in use
// is another's, under the same number since a reboot.
func removeSharedMemory(pidFile string) {
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return // a postmaster that ends in order removes both
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 7 {
		return
	}
	f := strings.Fields(lines[6]) // key, id
	if len(f) != 2 {
		return
	}
	id, err := strconv.Atoi(f[1])
	if err != nil {
		return
	}
	var segment unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &segment); err == nil && segment.Nattch == 0 {
		_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) // it may have gone meanwhile
	}
}
