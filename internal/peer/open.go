package peer

import (
	"context"
	"errors"
	"io"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/sshclient"
)

// errOlder: the node runs a version that does not know the command.
var errOlder = errors.New("it runs an older version, which does not know how")

// older reports whether what a node said on standard error means that it did not
// know the command, and so did nothing.
func older(said string) bool { return strings.HasPrefix(said, "# unknown command ") }

// Open runs a command on another node, as this device. The caller must close the
// session.
func (p *Peers) Open(ctx context.Context, on cluster.DeviceName, command string) (*sshclient.Session, error) {
	return p.open(ctx, on, command, nil)
}

func (p *Peers) open(ctx context.Context, on cluster.DeviceName, command string, stderr io.Writer) (*sshclient.Session, error) {
	conn, err := p.connect(ctx, on)
	if err != nil {
		return nil, err
	}
	s, err := conn.Start(ctx, command, nil, stderr)
	if err != nil && !errors.Is(err, sshclient.ErrRefused) {
		p.drop(on, conn)
	}
	return s, err
}
