//go:build !linux

package harness

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// The harness runs on Linux only: elsewhere the package compiles, so that the
// program that carries it does, and every start fails with this error.
var errOnlyLinux = errors.New("the test servers run on Linux only: use a Linux container")

type account struct{}

func postgresAccount() (*account, error)      { return nil, errOnlyLinux }
func (a *account) own(string) error           { return errOnlyLinux }
func (a *account) reach(string) error         { return errOnlyLinux }
func (a *account) run(*exec.Cmd)              {}
func dieWithParent(*exec.Cmd, syscall.Signal) {}
func lockFile(string, bool) (*os.File, error) { return nil, errOnlyLinux }
func killThoseIn(string) int                  { return 0 }
func removeSharedMemory(string)               {}
