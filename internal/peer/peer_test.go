package peer

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/sshclient/sshtest"
)

// Nobody waits for a node that takes connections and says nothing longer than they
// want to, whoever else waits for it.
func TestWaitingForADial(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	key := sshtest.NewKey(t)
	node := cluster.Device{Name: "b", PublicKey: string(ssh.MarshalAuthorizedKey(key.PublicKey())), SSH: silent.Addr().String(), Node: true, Enabled: true}
	rules := access.NewDirectory([]cluster.Device{node}, nil, nil, nil)
	p := New("a", "", key, func() *access.Directory { return rules })
	defer p.Close()
	first := make(chan error, 1)
	go func() {
		_, err := p.connect(t.Context(), "b")
		first <- err
	}()
	conn := <-accepted
	defer conn.Close()

	enough := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, enough)
	defer cancel()
	if _, err := p.connect(ctx, "b"); !errors.Is(err, enough) {
		t.Error(err)
	}
	if len(accepted) != 0 {
		t.Error("each caller makes a connection of its own")
	}
	p.Close()
	select {
	case err := <-first:
		if err == nil {
			t.Error("a silent node was connected to")
		}
	case <-time.After(20 * time.Second):
		t.Error("the end of all connections does not end what waits for one")
	}
}
