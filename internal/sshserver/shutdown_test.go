package sshserver

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/session"
)

func TestShutdownWaits(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	f := start(t, func(ctx context.Context, s *session.Session) int {
		close(started)
		select {
		case <-release:
			return 5
		case <-ctx.Done():
			return 6
		}
	}, nil)
	idle := f.dial(t, "git", f.user)
	busy := f.dial(t, "git", f.user)
	waiting := f.session(t, busy) // opened in time, but its command comes too late
	s := f.session(t, busy)
	if err := s.Start("x"); err != nil {
		t.Fatal(err)
	}
	recv(t, started, "the command")
	down := make(chan error, 1)
	go func() { down <- f.Shutdown(context.Background()) }()
	idleGone := make(chan error, 1)
	go func() { idleGone <- idle.Wait() }()
	recv(t, idleGone, "the idle connection to be closed")
	waitFor(t, "the listener to be closed", func() (string, bool) {
		c, err := net.Dial("tcp", f.addr)
		if err != nil {
			return "", true
		}
		c.Close()
		return "connected", false
	})
	if _, stderr, status := run(t, waiting, "y", nil); status != 1 || stderr != "# this node is stopping\n" {
		t.Errorf("a new command while stopping: status %d, %q", status, stderr)
	}
	select {
	case err := <-down:
		t.Fatalf("Shutdown returned while a command ran: %v", err)
	default:
	}
	close(release)
	var exit *ssh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 5 {
		t.Errorf("the command ended with %v, want exit status 5", err)
	}
	if err := recv(t, down, "Shutdown"); err != nil {
		t.Error(err)
	}
	if err := f.Shutdown(context.Background()); err != nil {
		t.Errorf("a second Shutdown: %v", err)
	}
}

func TestShutdownGivesUp(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	f := start(t, func(ctx context.Context, s *session.Session) int {
		close(started)
		<-ctx.Done()
		close(ended)
		return 0
	}, nil)
	s := f.session(t, f.dial(t, "git", f.user))
	if err := s.Start("x"); err != nil {
		t.Fatal(err)
	}
	recv(t, started, "the command")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := f.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	recv(t, ended, "the command to be canceled")
	if err := recv(t, f.served, "Serve"); err != nil {
		t.Error(err)
	}
	f.served <- nil
}

func TestServeEndsWithItsContext(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	f := start(t, func(ctx context.Context, s *session.Session) int {
		close(started)
		<-ctx.Done()
		close(ended)
		return 0
	}, nil)
	s := f.session(t, f.dial(t, "git", f.user))
	if err := s.Start("x"); err != nil {
		t.Fatal(err)
	}
	recv(t, started, "the command")
	f.stop()
	recv(t, ended, "the command to be canceled")
}
