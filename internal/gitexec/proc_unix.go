//go:build unix && !linux

package gitexec

import "syscall"

func attributes(foreground bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: !foreground}
}
