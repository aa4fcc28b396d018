package sshclient

import (
	"context"
	"io"
	"os"
	"time"

	"golang.org/x/crypto/ssh/agent"
)

// agentTimeout bounds the listing of an agent's keys.
const agentTimeout = 5 * time.Second

// An agentConn is a connection to an agent. It ends with the context.
type agentConn struct {
	agent.Agent
	raw  io.Closer
	stop func() bool
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

// fromAgent lists the agent's keys.
func (k *keyring) fromAgent() (held []*key) {
	path := k.o.Agent
	if path == "" {
		if path = os.Getenv("SSH_AUTH_SOCK"); path == "" {
			path = defaultAgent
		}
	}
	if path == "" || path == AgentNone {
		return nil
	}
	ctx, cancel := context.WithTimeout(k.ctx, agentTimeout)
	defer cancel()
	raw, err := dialAgent(ctx, path)
	if err != nil {
		if path != defaultAgent {
			k.skipped = append(k.skipped, "the agent cannot be reached")
		}
		return nil
	}
	client := agent.NewClient(raw)
	conn := &agentConn{client, raw, context.AfterFunc(k.ctx, func() { raw.Close() })}
	done := conn.within(agentTimeout)
	signers, err := client.Signers()
	done()
	if err != nil {
		conn.close()
		k.skipped = append(k.skipped, "the agent does not answer")
		return nil
	}
	k.agent = conn
	for _, s := range signers {
		held = append(held, &key{ring: k, public: s.PublicKey(), signer: s, held: true})
	}
	return held
}

// AgentKeys is how many keys an agent holds.
func AgentKeys(socket string, limit time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	raw, err := dialAgent(ctx, socket)
	if err != nil {
		return 0, err
	}
	conn := &agentConn{agent.NewClient(raw), raw, context.AfterFunc(ctx, func() { raw.Close() })}
	defer conn.close()
	keys, err := conn.List()
	return len(keys), err
}
