package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// LeakIgnore names the goroutine that keeps a running server, for
// goleak.IgnoreAnyFunction in tests that look for leaks beside a shared server.
const LeakIgnore = "github.com/walrill/walrill/internal/harness.(*process).keep"

// process is one child process that dies with us.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when the process has ended and is reaped
	err  error         // how it ended; read after done
}

// startProcess starts cmd with its output appended to the file log.
// orphaned is the signal that the child gets when this process dies, 0 for none.
func startProcess(cmd *exec.Cmd, log string, orphaned syscall.Signal) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	dieWithParent(cmd, orphaned)
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	started := make(chan error)
	go p.keep(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// keep starts the process and waits for its end on one thread: the kernel sends
// the parent-death signal when the *thread* that forked ends, so that thread
// must live as long as the child.
func (p *process) keep(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	close(p.done)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal sends sig; a process that has ended already is no error.
func (p *process) signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !p.ended() && err != os.ErrProcessDone {
		return fmt.Errorf("send %v to process %d: %w", sig, p.pid(), err)
	}
	return nil
}

// stop sends each signal in turn until the process ends, giving it patience
// after each; the last resort is SIGKILL.
func (p *process) stop(patience time.Duration, signals ...os.Signal) error {
	for _, sig := range append(signals, os.Kill) {
		if err := p.signal(sig); err != nil {
			return err
		}
		select {
		case <-p.done:
			return nil
		case <-time.After(patience):
		}
	}
	return fmt.Errorf("stop process %d: still there %v after SIGKILL", p.pid(), patience)
}

// ready polls probe until it succeeds. It gives up when the process ends or
// ctx does, and the error then shows the end of the server's log.
func (p *process) ready(ctx context.Context, probe func(context.Context) error) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("it ended with %v; its log:\n%s", p.err, logTail(p.log))
		case <-ctx.Done():
			return fmt.Errorf("%w, last answer %v; its log:\n%s", ctx.Err(), err, logTail(p.log))
		}
	}
}

// logTail is the end of the file at path.
func logTail(path string) string {
	const most = 4000
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return strings.TrimSpace(string(b))
}
