package client

import (
	"context"
	"io"

	"gitcluster/internal/sshclient"
)

// A transport is a way to run commands on a replica: a connection of our own,
// or another SSH program that makes one for each command.
type transport interface {
	// Open prepares a command that is to be told later.
	Open(ctx context.Context) (session, error)
	// Start runs a command at once.
	Start(ctx context.Context, command string, env map[string]string, stderr io.Writer) (session, error)
	// Run runs a command to its end, as [sshclient.Conn.Run] does.
	Run(ctx context.Context, command string, env map[string]string, stdin io.Reader, stdout, stderr io.Writer) (int, error)
	// Shared reports whether a second command costs no second connection.
	Shared() bool
	// Close ends the commands. It does not wait.
	Close() error
}

// A session is one command, as [sshclient.Session] is.
type session interface {
	io.ReadWriter
	Start(command string, env map[string]string, stderr io.Writer) error
	CloseWrite() error
	Wait() (status int, err error)
	Close() error
}

// A connection is the transport of our own SSH client.
type connection struct {
	*sshclient.Conn
	direct bool // it goes through no other server
}

func (c connection) Shared() bool { return true }

func (c connection) Open(ctx context.Context) (session, error) {
	s, err := c.Conn.Open(ctx)
	if err != nil {
		return nil, err // not a nil *sshclient.Session, which would be a session
	}
	return s, nil
}

func (c connection) Start(ctx context.Context, command string, env map[string]string, stderr io.Writer) (session, error) {
	s, err := c.Conn.Start(ctx, command, env, stderr)
	if err != nil {
		return nil, err
	}
	return s, nil
}
