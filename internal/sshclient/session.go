package sshclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/session"
)

// A Session is one command. Read gives its standard output, Write feeds its
// standard input and CloseWrite ends that. Read must go on until its end, or the
// session be closed. Close is harmless after the end.
type Session struct {
	conn   *Conn
	ch     ssh.Channel
	stop   func() bool
	ctx    context.Context
	ended  chan struct{} // the server closed the channel
	drain  chan struct{} // standard error was copied to its end
	status int           // read after ended
	err    error         // read after ended

	abortOnce sync.Once
}

// Start runs a command. Variables of env that the server does not allow are
// dropped by it. What the command writes to standard error goes to stderr, or
// nowhere if that is nil. The end of the context ends the command.
func (c *Conn) Start(ctx context.Context, command string, env map[string]string, stderr io.Writer) (*Session, error) {
	if c.atOnce.Load() {
		question := []string{command}
		for name, value := range env {
			question = append(question, name, value)
		}
		s, err := c.open(ctx, session.CommandChannel, sshStrings(question...))
		if err == nil {
			s.follows(stderr)
			return s, nil
		}
		if unknown := (*unknownChannelError)(nil); !errors.As(err, &unknown) {
			return nil, err
		}
		c.atOnce.Store(false) // an older node
	}
	s, err := c.Open(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Start(command, env, stderr); err != nil {
		return nil, err
	}
	return s, nil
}

// Open prepares a session whose command is to be told later: it spares the
// round trip when the command is known. The context is that of the command, too.
func (c *Conn) Open(ctx context.Context) (*Session, error) {
	return c.open(ctx, "session", nil)
}

func (c *Conn) open(ctx context.Context, kind string, question []byte) (*Session, error) {
	type opened struct {
		ch       ssh.Channel
		requests <-chan *ssh.Request
		err      error
	}
	answer := make(chan opened, 1)
	go func() {
		ch, requests, err := c.client.OpenChannel(kind, question)
		answer <- opened{ch, requests, err}
	}()
	select {
	case o := <-answer:
		if o.err != nil {
			return nil, c.openError(ctx, o.err)
		}
		s := &Session{conn: c, ch: o.ch, ctx: ctx, status: -1, ended: make(chan struct{})}
		go s.follow(o.requests)
		s.stop = context.AfterFunc(ctx, s.abort)
		return s, nil
	case <-ctx.Done():
		// The server may still answer. Close what it opens; if it is dead, so
		// is the connection.
		go func() {
			late := time.AfterFunc(closeGrace, func() { c.Close() })
			if o := <-answer; o.err == nil {
				go ssh.DiscardRequests(o.requests)
				o.ch.Close()
			}
			late.Stop()
		}()
		return nil, context.Cause(ctx)
	}
}

func (c *Conn) openError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var refused *ssh.OpenChannelError
	if errors.As(err, &refused) {
		err := fmt.Errorf("%w: no further session: %s", ErrRefused, printable(refused.Message))
		if refused.Reason == ssh.UnknownChannelType {
			err = &unknownChannelError{err}
		}
		return err
	}
	select {
	case <-c.Done():
		// What the library says of a connection that ends meanwhile is about
		// packets.
		return fmt.Errorf("open a session: %w", io.EOF)
	default:
	}
	return fmt.Errorf("open a session: %w", err)
}

// An unknownChannelError is the refusal of a kind of session that the server does not
// know.
type unknownChannelError struct{ error }

func (e *unknownChannelError) Unwrap() error { return e.error }

// Start tells the command of a session that Open prepared. On an error the
// session is closed.
func (s *Session) Start(command string, env map[string]string, stderr io.Writer) (err error) {
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	for name, value := range env {
		// Without asking for a reply, which would cost a round trip each and
		// change nothing.
		if _, err := s.ch.SendRequest("env", false, sshStrings(name, value)); err != nil {
			return s.cause(err)
		}
	}
	ok, err := s.ch.SendRequest("exec", true, sshStrings(command))
	if err != nil {
		return s.cause(err)
	}
	if !ok {
		return ErrRefused
	}
	s.follows(stderr)
	return nil
}

// follows copies what the command writes to standard error.
func (s *Session) follows(stderr io.Writer) {
	if stderr == nil {
		stderr = io.Discard
	}
	s.drain = make(chan struct{})
	go func() {
		defer close(s.drain)
		// Read on when the writer fails, or the command would block on it.
		if _, err := io.Copy(stderr, s.ch.Stderr()); err != nil {
			io.Copy(io.Discard, s.ch.Stderr())
		}
	}()
}

// Read reads the command's standard output.
func (s *Session) Read(p []byte) (int, error) { return s.ch.Read(p) }

// Write writes to the command's standard input.
func (s *Session) Write(p []byte) (int, error) { return s.ch.Write(p) }

// CloseWrite ends the command's standard input.
func (s *Session) CloseWrite() error { return s.ch.CloseWrite() }

// Ended is closed when the command is over and its exit status, if any, is known.
func (s *Session) Ended() <-chan struct{} { return s.ended }

// Wait waits for the command's end and returns its exit status. Without one, the
// status is -1 and the error the context's cause, [ErrNoStatus] or the signal
// that ended the command.
func (s *Session) Wait() (int, error) {
	<-s.ended
	if s.drain != nil {
		<-s.drain
	}
	s.stop()
	if s.err != nil {
		return -1, s.cause(s.err)
	}
	return s.status, nil
}

// Close ends the command if it still runs. It does not wait for that.
func (s *Session) Close() error {
	s.stop()
	s.abort()
	return nil
}

// abort closes the channel, and the connection if the server does not confirm
// that soon: a connection on which one command cannot be ended is of no use for
// another.
func (s *Session) abort() {
	s.abortOnce.Do(func() {
		go func() {
			late := time.AfterFunc(closeGrace, func() { s.conn.Close() })
			s.ch.Close() // may block on a connection that takes no more bytes
			<-s.ended
			late.Stop()
		}()
	})
}

// follow takes note of the exit status until the channel is closed.
func (s *Session) follow(requests <-chan *ssh.Request) {
	defer close(s.ended)
	s.err = ErrNoStatus
	for r := range requests {
		switch r.Type {
		case "exit-status":
			if len(r.Payload) >= 4 {
				s.status, s.err = int(int32(binary.BigEndian.Uint32(r.Payload))), nil
			}
		case "exit-signal":
			var signal struct {
				Name string
				Rest []byte `ssh:"rest"`
			}
			if ssh.Unmarshal(r.Payload, &signal) == nil {
				s.err = fmt.Errorf("the command was ended by SIG%s", printable(signal.Name))
			}
		}
		if r.WantReply {
			r.Reply(false, nil)
		}
	}
}

func (s *Session) cause(err error) error {
	if cause := context.Cause(s.ctx); cause != nil {
		return cause
	}
	if errors.Is(err, io.EOF) {
		return ErrNoStatus
	}
	return err
}

// sshStrings encodes strings as RFC 4251 does.
func sshStrings(parts ...string) (b []byte) {
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}
