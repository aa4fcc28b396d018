package sshclient

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh/agent"

	"gitcluster/internal/sshclient/sshtest"
)

// An agent that is dead, locked or deaf keeps nobody from logging in with a file.
func TestBrokenAgent(t *testing.T) {
	dir := home(t)
	g := newGate(t)
	plain, key := sshtest.NewKeyFile(t, dir, "plain", "")
	g.accept = []string{nameOf(key.PublicKey())}
	o := g.options()
	o.IdentityFiles, o.Agent = []string{plain}, filepath.Join(dir, "nothing")
	dial(t, o)
	refusing := agent.NewKeyring()
	o.Agent = serveAgent(t, refusing)
	if err := refusing.Lock([]byte("x")); err != nil {
		t.Fatal(err)
	}
	dial(t, o)

	// A deaf one is waited for once, and not at the cost of the server.
	o.Agent = filepath.Join(t.TempDir(), "deaf")
	listener, err := net.Listen("unix", o.Agent)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var reached atomic.Int32
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			reached.Add(1)
		}
	}()
	o.HandshakeTimeout, o.Agents = 9*time.Second, &Agents{limit: 10 * time.Second}
	for range 2 {
		dial(t, o)
	}
	o.IdentityFiles = []string{}
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrAuth) || !strings.Contains(err.Error(), "(the agent does not answer)") {
		t.Error(err)
	}
	if n := reached.Load(); n != 1 {
		t.Errorf("the agent was asked %d times", n)
	}
}

// An agent is asked once what it holds, whoever else gives up waiting for that.
func TestAgentIsAskedOnce(t *testing.T) {
	dir := home(t)
	g := newGate(t)
	path, key := sshtest.NewKeyFile(t, dir, "held", "")
	g.accept = []string{nameOf(key.PublicKey())}
	counted := &countingAgent{Agent: agent.NewKeyring(), answer: make(chan struct{})}
	if err := counted.Add(agent.AddedKey{PrivateKey: rawKey(t, path, "")}); err != nil {
		t.Fatal(err)
	}
	o := g.options()
	o.IdentityFiles, o.Agent, o.Agents = []string{}, serveAgent(t, counted), &Agents{limit: time.Minute}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.Agents.list(ctx, o.Agent); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(counted.answer)
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() {
			conn, err := Dial(t.Context(), o)
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		})
	}
	wait.Wait()
	if n := counted.lists.Load(); n != 1 {
		t.Errorf("the agent was asked %d times", n)
	}
}

// A countingAgent says what it holds once answer is closed.
type countingAgent struct {
	agent.Agent
	answer chan struct{}
	lists  atomic.Int32
}

func (c *countingAgent) List() ([]*agent.Key, error) {
	c.lists.Add(1)
	<-c.answer
	return c.Agent.List()
}
