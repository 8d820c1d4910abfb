package harness

import (
	"os/exec"
	"syscall"
)

// StartOutliving is StartProgram for a program that goes on when we end.
func StartOutliving(cmd *exec.Cmd, log string) (*Program, error) {
	proc, err := startProcess(cmd, log, 0)
	if err != nil {
		return nil, err
	}
	return &Program{proc, log}, nil
}

// orphanSignal is what a server gets when we die: nothing when it is to outlive us.
func orphanSignal(outlive bool, sig syscall.Signal) syscall.Signal {
	if outlive {
		return 0
	}
	return sig
}
