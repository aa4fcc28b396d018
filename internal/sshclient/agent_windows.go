package sshclient

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
)

// defaultAgent is the pipe of the agent that comes with Windows.
const defaultAgent = `\\.\pipe\openssh-ssh-agent`

const nonBlocking = 0

func dialAgent(ctx context.Context, path string) (io.ReadWriteCloser, error) {
	if strings.HasPrefix(path, `\\.\pipe\`) {
		return os.OpenFile(path, os.O_RDWR, 0)
	}
	return new(net.Dialer).DialContext(ctx, "unix", path)
}
