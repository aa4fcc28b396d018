package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"gitcluster/internal/cluster"
)

// Command is the command line by which a node takes a request over SSH.
const Command = "cluster-admin"

// Nodes reaches the other nodes, as this one.
type Nodes interface {
	Open(ctx context.Context, on cluster.DeviceName, command string) (Conversation, error)
}

// A Conversation is a command on another node.
type Conversation interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// These begin the names of the methods that only nodes may call, and the
// operator of the node itself: what others want goes through one that checks what
// they may do.
const (
	replicaMethod = "replica."
	nodeMethod    = "node."
)

// mustNode checks that a node asks, for itself.
func (s *Server) mustNode(id cluster.Identity) error {
	if id.Operator {
		return nil
	}
	if d, ok := s.Rules.Snapshot().Device(id.Device); ok && d.Node && d.Enabled && id.User == "" {
		return nil
	}
	return fmt.Errorf("only nodes may ask for this: %w", cluster.ErrDenied)
}

// on has a node do a method of its own, this one or another.
func (s *Server) on(ctx context.Context, device cluster.DeviceName, method string, params, result any) error {
	if device == s.Device {
		raw, err := json.Marshal(params)
		if err != nil {
			return err
		}
		got, err := s.node(ctx, request{Method: method, Params: raw})
		if err != nil {
			return err
		}
		if raw, err = json.Marshal(got); err != nil || result == nil {
			return err
		}
		return json.Unmarshal(raw, result)
	}
	c, err := s.Nodes.Open(ctx, device, Command)
	if err != nil {
		return &unreached{err}
	}
	defer c.Close()
	return Ask(c, method, params, result)
}

// unreached is the error of a node that nothing could be asked.
type unreached struct{ error }

func (u *unreached) Unwrap() error { return u.error }

// Ask is Call over a conversation with another node.
func Ask(c Conversation, method string, params, result any) error {
	return Call(c, half{c}, method, params, result)
}

// half closes only the half of a conversation in which the question was asked.
type half struct{ Conversation }

func (h half) Close() error { return h.CloseWrite() }

// eachNode asks all enabled nodes at once.
func (s *Server) eachNode(ctx context.Context, ask func(ctx context.Context, device cluster.DeviceName)) {
	var wait sync.WaitGroup
	for _, d := range s.Rules.Snapshot().Nodes() {
		if d.Enabled && !d.New {
			wait.Go(func() { ask(ctx, d.Name) })
		}
	}
	wait.Wait()
}

// nodePatience is how long a question to a node may take that it can answer at
// once.
const nodePatience = 20 * time.Second

func isNodeMethod(method string) bool {
	return strings.HasPrefix(method, nodeMethod) || strings.HasPrefix(method, replicaMethod)
}

var errNoAnswer = errors.New("no answer in time")
