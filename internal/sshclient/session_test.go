package sshclient

import (
	"io"
	"strings"
	"testing"

	"gitcluster/internal/session"
	"gitcluster/internal/sshclient/sshtest"
)

// TestOlderNode starts commands on a node that does not know how to open a session and
// run its command in one: it is asked once, and then as any server.
func TestOlderNode(t *testing.T) {
	home(t)
	s := sshtest.Start(t, sshtest.Options{Handler: echo, Version: session.ServerVersion + "0.1"})
	conn, err := Dial(t.Context(), options(s))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for try := range 2 {
		if conn.atOnce.Load() != (try == 0) {
			t.Errorf("try %d: it is taken to know: %v", try, conn.atOnce.Load())
		}
		started, err := conn.Start(t.Context(), "say hello", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		started.CloseWrite()
		out, err := io.ReadAll(started)
		if err != nil || !strings.Contains(string(out), "say hello") {
			t.Errorf("try %d: %q, %v", try, out, err)
		}
		started.Wait()
	}
}
