package sshclient

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"gitcluster/internal/sshclient/sshtest"
)

func TestHostKey(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{Handler: echo})
	key, err := HostKey(t.Context(), Options{Addr: s.Addr})
	if err != nil || !sameKey(key, s.Host.PublicKey()) {
		t.Fatalf("host key %v, %v", key, err)
	}

	// One that takes connections and says nothing.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, err := HostKey(t.Context(), Options{Addr: silent.Addr().String(), HandshakeTimeout: 50 * time.Millisecond}); !errors.Is(err, ErrTimeout) {
		t.Errorf("a silent server: %v", err)
	}
	// A connection through another server has no deadlines.
	jump := sshtest.Start(t, sshtest.Options{Forward: true})
	via := options(jump)
	if _, err := HostKey(t.Context(), Options{Addr: silent.Addr().String(), Via: &via, HandshakeTimeout: 50 * time.Millisecond}); !errors.Is(err, ErrTimeout) {
		t.Errorf("a silent server behind another: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("nobody waits")
	time.AfterFunc(50*time.Millisecond, func() { cancel(gone) })
	if _, err := HostKey(ctx, Options{Addr: silent.Addr().String()}); !errors.Is(err, gone) {
		t.Errorf("after the context: %v", err)
	}
}
