package sshclient

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// agentTimeout bounds the listing of an agent's keys. An agent that takes longer is
// most likely one whose other end has gone, as a forwarded one's.
const agentTimeout = 2 * time.Second

// An agentConn is a connection to an agent. It ends with the context.
type agentConn struct {
	agent.ExtendedAgent
	raw  io.Closer
	stop func() bool
}

func newAgentConn(ctx context.Context, raw io.ReadWriteCloser) *agentConn {
	return &agentConn{agent.NewClient(raw), raw, context.AfterFunc(ctx, func() { raw.Close() })}
}

func (c *agentConn) close() {
	c.stop()
	c.raw.Close()
}

// within ends the connection, and what waits for the agent, if the caller does
// not call done in time. Deadlines are not for every kind of connection that
// there is to an agent.
func (c *agentConn) within(limit time.Duration) (done func()) {
	timer := time.AfterFunc(limit, c.close)
	return func() { timer.Stop() }
}

// Agents remembers what agents hold, so that each of them is asked once by all Dials
// that it is given to. The zero value is ready.
type Agents struct {
	limit    time.Duration // in place of agentTimeout; 0: that
	mu       sync.Mutex
	listings map[string]*listing // by socket
}

// A listing is what an agent has said of itself.
type listing struct {
	done chan struct{}
	keys []*agent.Key // read after done, as is err
	err  error
}

var (
	errNoAgent   = errors.New("the agent cannot be reached")
	errDeafAgent = errors.New("the agent does not answer")
)

// list returns an agent's keys. Whoever asks first may go away before the answer, which
// is for the others, too.
func (a *Agents) list(ctx context.Context, path string) ([]*agent.Key, error) {
	a.mu.Lock()
	l := a.listings[path]
	if l == nil {
		if a.listings == nil {
			a.listings = map[string]*listing{}
		}
		l = &listing{done: make(chan struct{})}
		a.listings[path] = l
		go l.ask(path, orDefault(a.limit, agentTimeout))
	}
	a.mu.Unlock()
	select {
	case <-l.done:
		return l.keys, l.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *listing) ask(path string, limit time.Duration) {
	defer close(l.done)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	raw, err := dialAgent(ctx, path)
	if err != nil {
		l.err = errNoAgent
		return
	}
	conn := newAgentConn(ctx, raw)
	defer conn.close()
	if l.keys, err = conn.List(); err != nil {
		l.err = errDeafAgent
	}
}

// fromAgent lists the agent's keys. That the agent is slow is not the server's fault.
func (k *keyring) fromAgent() (held []*key) {
	path := k.agentPath()
	if path == "" {
		return nil
	}
	resume := k.patience()
	list, err := k.o.Agents.list(k.ctx, path)
	resume()
	if err != nil {
		if err != errNoAgent || path != defaultAgent {
			k.skipped = append(k.skipped, err.Error())
		}
		return nil
	}
	for _, public := range list {
		held = append(held, &key{ring: k, public: public, held: true})
	}
	k.answers = true
	return held
}

// agentPath is the agent's socket; "" for no agent.
func (k *keyring) agentPath() string {
	switch path := k.o.Agent; path {
	case "":
		return cmp.Or(os.Getenv("SSH_AUTH_SOCK"), defaultAgent)
	case AgentNone:
		return ""
	default:
		return path
	}
}

// reachAgent connects to the agent, once.
func (k *keyring) reachAgent() (*agentConn, error) {
	if k.agent == nil {
		ctx, cancel := context.WithTimeout(k.ctx, agentTimeout)
		defer cancel()
		raw, err := dialAgent(ctx, k.agentPath())
		if err != nil {
			return nil, errNoAgent
		}
		k.agent = newAgentConn(k.ctx, raw)
	}
	return k.agent, nil
}

// sign asks for a signature, which may need a person, or a touch.
func (c *agentConn) sign(key ssh.PublicKey, data []byte, algorithm string) (*ssh.Signature, error) {
	defer c.within(personTimeout)()
	var flags agent.SignatureFlags
	switch algorithm {
	case ssh.KeyAlgoRSASHA256:
		flags = agent.SignatureFlagRsaSha256
	case ssh.KeyAlgoRSASHA512:
		flags = agent.SignatureFlagRsaSha512
	}
	return c.SignWithFlags(key, data, flags)
}

// AgentKeys is how many keys an agent holds.
func AgentKeys(socket string, limit time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	raw, err := dialAgent(ctx, socket)
	if err != nil {
		return 0, err
	}
	conn := newAgentConn(ctx, raw)
	defer conn.close()
	keys, err := conn.List()
	return len(keys), err
}
