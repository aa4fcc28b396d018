package gitexec

import "syscall"

// attributes makes the child a group of its own, so that it can be ended with
// its children, and asks the kernel to end it if the node dies.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
