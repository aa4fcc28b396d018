package sshserver

import (
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/session"
	"gitcluster/internal/sshclient"
)

// TestCommandChannel runs a command by the request that opens its channel: under the
// same rules as by a session.
func TestCommandChannel(t *testing.T) {
	f := start(t, echo, nil)
	conn, err := sshclient.Dial(t.Context(), sshclient.Options{Addr: f.addr, User: "git", HostKey: f.hostKey, Signers: []ssh.Signer{f.user}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	same := func(run func() (*sshclient.Session, error)) {
		t.Helper()
		var stderr lockedBuffer
		s, err := run()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(s, "input")
		s.CloseWrite()
		out, err := io.ReadAll(s)
		if want := "git-upload-pack 'x'|alice|[GIT_PROTOCOL]|input"; err != nil || string(out) != want {
			t.Errorf("%q, %v, want %q; %s", out, err, want, &stderr)
		}
		if status, err := s.Wait(); status != 7 || err != nil {
			t.Errorf("status %d, %v", status, err)
		}
	}
	env := map[string]string{"GIT_PROTOCOL": "version=2", "LD_PRELOAD": "/tmp/x.so", "GIT_DIR": "/", "GIT_CLUSTER_STALE_OK": strings.Repeat("1", maxEnvValue+1)}
	same(func() (*sshclient.Session, error) { return conn.Start(t.Context(), "git-upload-pack 'x'", env, nil) })
	same(func() (*sshclient.Session, error) {
		s, err := conn.Open(t.Context())
		if err == nil {
			err = s.Start("git-upload-pack 'x'", env, nil)
		}
		return s, err
	})
}

// TestMalformedCommandChannel sends what is no command, and one that is too long.
func TestMalformedCommandChannel(t *testing.T) {
	f := start(t, echo, nil)
	client := f.dial(t, "git", f.user)
	long := ssh.Marshal(struct{ Command string }{strings.Repeat("x", maxCommand+1)})
	for name, payload := range map[string][]byte{
		"nothing":         nil,
		"a cut string":    {0, 0, 0, 9, 'x'},
		"a name alone":    ssh.Marshal(struct{ Command, Name string }{"x", "GIT_PROTOCOL"}),
		"a length beyond": {0, 0, 0, 1, 'x', 0xff, 0xff, 0xff, 0xff},
	} {
		var refused *ssh.OpenChannelError
		if _, _, err := client.OpenChannel(session.CommandChannel, payload); !errors.As(err, &refused) || refused.Reason != ssh.ConnectionFailed {
			t.Errorf("%s: %v", name, err)
		}
	}
	ch, requests, err := client.OpenChannel(session.CommandChannel, long)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(requests)
	out, err := io.ReadAll(ch.Stderr())
	if err != nil || !strings.Contains(string(out), "longer than") {
		t.Errorf("%q, %v", out, err)
	}
}
