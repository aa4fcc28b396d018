package peer

import (
	"context"
	"errors"

	"gitcluster/internal/cluster"
	"gitcluster/internal/sshclient"
)

// Open runs a command on another node, as this device. The caller must close the
// session.
func (p *Peers) Open(ctx context.Context, on cluster.DeviceName, command string) (*sshclient.Session, error) {
	conn, err := p.connect(ctx, on)
	if err != nil {
		return nil, err
	}
	s, err := conn.Start(ctx, command, nil, nil)
	if err != nil && !errors.Is(err, sshclient.ErrRefused) {
		p.drop(on, conn)
	}
	return s, err
}
