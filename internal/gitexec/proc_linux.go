package gitexec

import "syscall"

// attributes makes the child a group of its own, so that it can be ended with
// its children, and asks the kernel to end it if the node dies. A process that
// uses the terminal gets the chance to restore its state.
func attributes(foreground bool) *syscall.SysProcAttr {
	if foreground {
		return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	}
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
