package gitexec

import (
	"os"
	"syscall"
)

func attributes(foreground bool) *syscall.SysProcAttr {
	if foreground {
		return nil // it keeps the console
	}
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

func endGroup(p *os.Process, _ bool) error { return p.Kill() }

func endProcess(p *os.Process, _ bool) error { return p.Kill() }
