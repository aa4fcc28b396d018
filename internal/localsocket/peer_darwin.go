package localsocket

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// peerUID is the account of the process at the other end, as it was when that
// process connected or listened.
func peerUID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Xucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, fmt.Errorf("account of the other end: %w", credErr)
	}
	return int(cred.Uid), nil
}
