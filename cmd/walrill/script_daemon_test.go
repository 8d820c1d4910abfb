package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/walrill/walrill/internal/harness"
)

// startCommand starts walrill in the background, its output in NAME.log.
func startCommand(ts *testscript.TestScript, args []string) {
	need(ts, len(args) >= 3 && args[1] == "walrill", "start NAME walrill [ARG...]")
	s, name := scriptOf(ts), args[0]
	if old := s.programs[name]; old != nil && !old.Ended() {
		ts.Fatalf("%s runs already", name)
	}
	log := ts.MkAbs(name + ".log")
	if err := os.Remove(log); err != nil && !errors.Is(err, os.ErrNotExist) {
		ts.Fatalf("%v", err)
	}
	program, err := harness.StartProgram(walrill(context.Background(), ts, args[2:]), log)
	ts.Check(err)
	s.programs[name] = program
	ts.Defer(func() {
		ts.Logf("[%s.log]\n%s", name, program.Output())
		if err := program.Kill(); err != nil {
			s.t.Error(err)
		}
		if strings.Contains(program.Output(), "DATA RACE") {
			s.t.Errorf("%s has a data race:\n%s", name, program.Output())
		}
	})
}

// programOf is a program that the script has started.
func programOf(ts *testscript.TestScript, name string) *harness.Program {
	p := scriptOf(ts).programs[name]
	if p == nil {
		ts.Fatalf("no program was started under the name %s", name)
	}
	return p
}

// peakCommand prints the most memory in MiB that a program has had.
func peakCommand(ts *testscript.TestScript, args []string) (result, error) {
	need(ts, len(args) == 1, "peak NAME")
	bytes, err := programOf(ts, args[0]).PeakMemory()
	if err != nil {
		return failed(err), nil
	}
	return result{stdout: fmt.Sprintln(bytes >> 20)}, nil
}

// readyCommand waits until a daemon answers on /readyz that changes arrive.
func readyCommand(ts *testscript.TestScript, args []string) {
	need(ts, len(args) == 1, "ready NAME")
	p := programOf(ts, args[0])
	answer := "nothing"
	harness.Poll(patience, func() bool {
		if r, err := get(p, "/readyz"); err == nil {
			answer = r
		}
		return strings.HasPrefix(answer, "200") || p.Ended()
	})
	if !strings.HasPrefix(answer, "200") {
		ts.Fatalf("%s is not ready; it answered %s", args[0], answer)
	}
}

// logCommand prints what a program has printed so far.
func logCommand(ts *testscript.TestScript, args []string) (result, error) {
	need(ts, len(args) == 1, "log NAME")
	return result{stdout: programOf(ts, args[0]).Output()}, nil
}

// httpCommand asks a daemon over HTTP.
func httpCommand(ts *testscript.TestScript, args []string) (result, error) {
	need(ts, len(args) == 2, "http NAME PATH")
	answer, err := get(programOf(ts, args[0]), args[1])
	if err != nil {
		return failed(err), nil
	}
	return result{stdout: answer}, nil
}

// httpAddress finds where a daemon answers in what it has logged.
var httpAddress = regexp.MustCompile(`answering over HTTP.*http"?[=:]"?(127\.0\.0\.1:\d+)`)

// get returns status and body of the daemon's answer.
func get(p *harness.Program, path string) (string, error) {
	m := httpAddress.FindStringSubmatch(p.Output())
	if m == nil {
		return "", errors.New("it has not said yet where it answers")
	}
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get("http://" + m[1] + path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return fmt.Sprintf("%s\n%s", response.Status, body), err
}

var signals = map[string]os.Signal{
	"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM, "SIGHUP": syscall.SIGHUP, "SIGKILL": syscall.SIGKILL,
	"SIGSTOP": syscall.SIGSTOP, "SIGCONT": syscall.SIGCONT,
}

// signalCommand sends a signal. The name kill is taken by testscript.
func signalCommand(ts *testscript.TestScript, args []string) {
	need(ts, len(args) == 2 && signals[args[1]] != nil, "signal NAME SIGINT|SIGTERM|SIGHUP|SIGKILL|SIGSTOP|SIGCONT")
	ts.Check(programOf(ts, args[0]).Signal(signals[args[1]]))
}

// exitCodeCommand waits until a program ends by itself and looks at its code;
// a signal that ended it counts as -1. The output is for the command stdout.
func exitCodeCommand(ts *testscript.TestScript, args []string) {
	limit, args := within(ts, args)
	need(ts, len(args) == 2, "exit-code [-in DURATION] NAME CODE")
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	p := programOf(ts, args[0])
	code, err := p.Wait(limit)
	ts.Check(err)
	fmt.Fprint(ts.Stdout(), p.Output())
	if code != want {
		ts.Fatalf("%s ended with %d, want %d", args[0], code, want)
	}
}
