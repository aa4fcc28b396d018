//go:build unix

package sshclient

import (
	"context"
	"io"
	"net"
	"syscall"
)

// defaultAgent is where an agent is if nothing says so.
const defaultAgent = ""

const nonBlocking = syscall.O_NONBLOCK

func dialAgent(ctx context.Context, path string) (io.ReadWriteCloser, error) {
	return new(net.Dialer).DialContext(ctx, "unix", path)
}
