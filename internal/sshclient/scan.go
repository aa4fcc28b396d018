package sshclient

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/crypto/ssh"
)

// errSeen ends a connection that was made for the host key alone.
var errSeen = errors.New("host key seen")

// HostKey returns the key that the server at o.Addr shows, which proves that it
// holds it, and goes away without logging in. Whether it is the right one is for
// a person to say. Of several keys it is the Ed25519 one, if the server has that.
func HostKey(ctx context.Context, o Options) (ssh.PublicKey, error) {
	raw, err := connect(ctx, o)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	stage := newStage(orDefault(o.HandshakeTimeout, defaultHandshake), raw)
	defer stage.end()

	var seen ssh.PublicKey
	conf := &ssh.ClientConfig{
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			seen = key
			return errSeen
		},
		HostKeyAlgorithms: []string{
			ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
		},
		Config: ssh.Config{KeyExchanges: keyExchanges, Ciphers: ciphers()},
	}
	if o.Version != "" {
		conf.ClientVersion = "SSH-2.0-" + o.Version
	}
	_, _, _, err = ssh.NewClientConn(raw, o.Addr, conf)
	switch {
	case seen != nil:
		return seen, nil
	case context.Cause(ctx) != nil:
		return nil, context.Cause(ctx)
	case !stage.end():
		return nil, fmt.Errorf("%w to the SSH handshake within %v", ErrTimeout, stage.limit)
	case hungUp(err):
		return nil, fmt.Errorf("the server closed the connection in the SSH handshake: %w", err)
	}
	return nil, err
}
