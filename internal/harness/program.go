package harness

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Program is a program under test that runs in the background. It dies with
// us, and what it prints, on both outputs, goes to the end of one file. Its
// methods may be called from any goroutine.
type Program struct {
	proc *process
	log  string
}

// StartProgram starts cmd with its output appended to the file log. The cmd is
// the program's from now on.
func StartProgram(cmd *exec.Cmd, log string) (*Program, error) {
	proc, err := startProcess(cmd, log, syscall.SIGKILL)
	if err != nil {
		return nil, err
	}
	return &Program{proc, log}, nil
}

// Output is all that was printed so far, by this program and by those that
// wrote to the same file before it.
func (p *Program) Output() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Signal sends a signal; a program that has ended already is no error.
func (p *Program) Signal(sig os.Signal) error { return p.proc.signal(sig) }

// Ended reports whether the program has ended.
func (p *Program) Ended() bool { return p.proc.ended() }

// Wait waits for the program to end by itself and returns its exit code, -1
// when a signal ended it.
func (p *Program) Wait(timeout time.Duration) (int, error) {
	select {
	case <-p.proc.done:
		return p.proc.cmd.ProcessState.ExitCode(), nil
	case <-time.After(timeout):
		return 0, fmt.Errorf("process %d has not ended within %v", p.proc.pid(), timeout)
	}
}

// Kill ends the program with SIGKILL and returns when it is gone. It may be
// called more than once, and ends a stopped program too.
func (p *Program) Kill() error { return p.proc.stop(10 * time.Second) }

// PeakMemory is the most memory in bytes that the program, which must be running, has had resident.
// It is known on Linux only.
func (p *Program) PeakMemory() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.proc.pid()))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "\nVmHWM:")
	var kib int64
	if _, err := fmt.Sscanf(rest, "%d kB", &kib); err != nil {
		return 0, fmt.Errorf("read VmHWM of process %d: %w", p.proc.pid(), err)
	}
	return kib << 10, nil
}
