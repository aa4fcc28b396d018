package sshclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
)

// connect reaches the server, through another if need be.
func connect(ctx context.Context, o Options) (net.Conn, error) {
	if o.Via != nil {
		return connectVia(ctx, o)
	}
	limit := orDefault(o.ConnectTimeout, defaultConnect)
	network := o.Network
	if network == "" {
		network = "tcp"
	}
	dialer := net.Dialer{Timeout: limit}
	conn, err := dialer.DialContext(ctx, network, o.Addr)
	if err == nil {
		return conn, nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	if isTimeout(err) {
		return nil, fmt.Errorf("%w within %v", ErrTimeout, limit)
	}
	// "dial tcp ADDR: connect:" says nothing the caller does not say better.
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err
	}
	if call := (*os.SyscallError)(nil); errors.As(err, &call) {
		err = call.Err
	}
	return nil, err
}

// A tunneled connection is one that another server makes.
type tunneled struct {
	net.Conn
	through *Conn
}

// Close ends the connection to the other server, which serves for nothing else.
func (t tunneled) Close() error { return t.through.Close() }

func connectVia(ctx context.Context, o Options) (net.Conn, error) {
	through, err := Dial(ctx, *o.Via)
	if err != nil {
		return nil, viaError(o, err)
	}
	limit := orDefault(o.ConnectTimeout, defaultConnect)
	dialing, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := through.client.DialContext(dialing, "tcp", o.Addr)
	if err == nil {
		return tunneled{conn, through}, nil
	}
	through.Close()
	switch refused := (*ssh.OpenChannelError)(nil); {
	case context.Cause(ctx) != nil:
		return nil, context.Cause(ctx)
	case dialing.Err() != nil:
		err = fmt.Errorf("%w from there within %v", ErrTimeout, limit)
	case errors.As(err, &refused):
		err = fmt.Errorf("it does not connect to %s: %s", o.Addr, printable(refused.Message))
	}
	return nil, viaError(o, err)
}

// viaError names the server on the way, where an error of its own began.
func viaError(o Options, err error) error {
	placed := fmt.Errorf("through %s: %w", o.Via.Addr, err)
	if hint := cluster.Hint(err); hint != "" {
		return cluster.WithHint(placed, hint)
	}
	return placed
}

// A stage closes a connection that has not come through it in time. A connection
// through another server has no deadlines, so this is a timer.
type stage struct {
	limit time.Duration
	timer *time.Timer
	late  atomic.Bool
}

func newStage(limit time.Duration, conn io.Closer) *stage {
	s := &stage{limit: limit}
	s.timer = time.AfterFunc(limit, func() {
		s.late.Store(true)
		conn.Close()
	})
	return s
}

// pause gives a person time. What it returns is to be called when they are done.
func (s *stage) pause() (resume func()) {
	s.timer.Reset(personTimeout)
	return func() { s.timer.Reset(s.limit) }
}

// end reports whether the stage ended in time.
func (s *stage) end() bool {
	s.timer.Stop()
	return !s.late.Load()
}

// handshakeError says what went wrong between the TCP connection and the end of
// authentication.
func handshakeError(ctx context.Context, err error, host *hostCheck, keys *keyring, o Options, s *stage) error {
	var none *ssh.AlgorithmNegotiationError
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case host.refusal != nil:
		return host.refusal
	case s.late.Load():
		return fmt.Errorf("%w to the SSH handshake within %v", ErrTimeout, s.limit)
	case tooManyKeys(err):
		return keys.refused(o.User, true)
	case strings.Contains(err.Error(), "unable to authenticate"), keys.failed:
		return keys.refused(o.User, false)
	case errors.As(err, &none) && none.What == "host key":
		return host.missing(none.RequestedAlgorithms)
	case errors.As(err, &none):
		return fmt.Errorf("%w: there is no common %s; the server offers %s", ErrUnsupported, none.What, printable(strings.Join(none.RequestedAlgorithms, ", ")))
	case hungUp(err):
		return fmt.Errorf("the server closed the connection in the SSH handshake: %w", err)
	}
	return err
}

// tooManyKeys reports whether the server has had enough of our keys. Servers say so
// in the words of OpenSSH's.
func tooManyKeys(err error) bool {
	return strings.Contains(err.Error(), "ssh: disconnect") && strings.Contains(strings.ToLower(err.Error()), "too many authentication failures")
}

// hungUp reports whether the other side ended the connection, in whichever way. Where
// one half of the library hears of that first, the other finds a connection closed; that
// it was not closed by us has been looked at before.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// printable keeps a server's text from acting on the terminal.
func printable(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
