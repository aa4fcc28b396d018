package sshserver

import (
	"context"
	"fmt"
	"io"
	"maps"
	"runtime/debug"
	"sync"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/session"
)

// What one session may send ahead of its command's own input.
const (
	maxCommand  = 4096 // a repository's name is at most 255 bytes
	maxEnvValue = 256
)

// Exit statuses for commands that the handler never sees or does not finish.
const (
	exitRefused = 1
	exitPanic   = 255
)

// serveChannel serves one session channel: settings, one command, its end. It
// returns when the client has closed the channel.
func (c *conn) serveChannel(ctx context.Context, nc ssh.NewChannel) {
	env := make(map[string]string)
	first, started := "", nc.ChannelType() == session.CommandChannel
	if started {
		var valid bool
		if first, valid = readCommand(nc.ExtraData(), env); !valid {
			nc.Reject(ssh.ConnectionFailed, "malformed command")
			return
		}
	}
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	// Requests stop coming when the channel or the connection is closed, not
	// when the client is only done sending: that is its command's end of input.
	ctx, cancel := context.WithCancel(ctx)
	var command sync.WaitGroup
	defer command.Wait()
	defer cancel()

	if started {
		command.Go(func() { c.runCommand(ctx, ch, first, maps.Clone(env)) })
	}
	// Reading on while the command runs is a must: the library delivers nothing
	// on the whole connection while a request waits to be read.
	for r := range reqs {
		ok := false
		switch r.Type {
		case "env":
			ok = !started && readEnv(env, r.Payload)
		case "exec", "shell":
			if started {
				break
			}
			text, valid := commandOf(r)
			if !valid {
				break
			}
			ok, started = true, true
			// The reply precedes the command's first output.
			if r.WantReply {
				r.Reply(true, nil)
			}
			command.Go(func() { c.runCommand(ctx, ch, text, maps.Clone(env)) })
			continue
		default:
			// pty-req, x11-req, subsystem, agent forwarding, signals: OpenSSH
			// goes on without those it does not need.
		}
		if r.WantReply {
			r.Reply(ok, nil)
		}
	}
}

// readCommand reads what opens a [session.CommandChannel].
func readCommand(payload []byte, env map[string]string) (command string, ok bool) {
	var msg struct {
		Command string
		Rest    []byte `ssh:"rest"`
	}
	if ssh.Unmarshal(payload, &msg) != nil {
		return "", false
	}
	for len(msg.Rest) > 0 {
		var variable struct {
			Name, Value string
			Rest        []byte `ssh:"rest"`
		}
		if ssh.Unmarshal(msg.Rest, &variable) != nil {
			return "", false
		}
		setEnv(env, variable.Name, variable.Value)
		msg.Rest = variable.Rest
	}
	return msg.Command, true
}

// readEnv reads an env request.
func readEnv(env map[string]string, payload []byte) bool {
	var msg struct{ Name, Value string }
	return ssh.Unmarshal(payload, &msg) == nil && setEnv(env, msg.Name, msg.Value)
}

// setEnv keeps an allowed variable and drops any other.
func setEnv(env map[string]string, name, value string) bool {
	if !session.AllowedEnv[name] || len(value) > maxEnvValue {
		return false
	}
	for _, b := range []byte(value) {
		if b < ' ' || b > '~' {
			return false
		}
	}
	env[name] = value
	return true
}

// commandOf reads an exec or shell request.
func commandOf(r *ssh.Request) (string, bool) {
	if r.Type == "shell" {
		return "", true
	}
	var msg struct{ Command string }
	if ssh.Unmarshal(r.Payload, &msg) != nil {
		return "", false
	}
	return msg.Command, true
}

// runCommand runs one command and tells the client how it ended.
func (c *conn) runCommand(ctx context.Context, ch ssh.Channel, command string, env map[string]string) {
	var status int
	if c.begin() {
		defer c.finish()
		status = c.handle(ctx, &session.Session{
			Identity: c.login.identity,
			Remote:   c.remote,
			Command:  command,
			Env:      env,
			Stdin:    onlyReader{ch},
			Stdout:   onlyWriter{ch},
			Stderr:   onlyWriter{ch.Stderr()},
		})
	} else {
		status = refuse(ch.Stderr(), "this node is stopping")
	}
	// A client that reads nothing can make these wait, but not for longer than
	// the connection lasts, and that is for keepAlive to say.
	ch.CloseWrite()
	ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status) & 0xff}))
	ch.Close()
}

// handle gives the command to whoever serves it. A panic there ends this
// command only: the node has other clients.
func (c *conn) handle(ctx context.Context, s *session.Session) (status int) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("a command panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			refuse(s.Stderr, "internal error; the node's log has the details")
			status = exitPanic
		}
	}()
	switch {
	case len(s.Command) > maxCommand:
		return refuse(s.Stderr, fmt.Sprintf("the command is longer than %d bytes", maxCommand))
	case !c.login.joining:
		return c.server.opts.Handler.ServeSession(ctx, s)
	case s.Command != JoinCommand:
		return refuse(s.Stderr, fmt.Sprintf("the login name %q can only run %q", JoinUser, JoinCommand))
	}
	return c.server.opts.JoinHandler(ctx, c.login.key, s)
}

func refuse(stderr io.Writer, reason string) int {
	fmt.Fprintf(stderr, "# %s\n", reason)
	return exitRefused
}

// A handler gets streams, not the channel behind them, which it could close
// under us.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)
