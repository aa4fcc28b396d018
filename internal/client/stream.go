package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/remotehelper"
	"gitcluster/internal/replica"
	"gitcluster/internal/sshclient"
)

// statusWait bounds the wait for the exit status of a service that ended
// without an answer. It is only for the message.
const statusWait = 2 * time.Second

// A stream is a service that runs on a replica.
type stream struct {
	session
	out     *bufio.Reader
	conn    transport
	replica replica.Candidate
	service remotehelper.Service
}

func newStream(conn transport, running session, c replica.Candidate, service remotehelper.Service) *stream {
	return &stream{session: running, out: bufio.NewReaderSize(running, 64<<10), conn: conn, replica: c, service: service}
}

// Read gives the service's output, from its first byte.
func (s *stream) Read(p []byte) (int, error) { return s.out.Read(p) }

// Wait adds the replica's name to an error, and what it means for the user that the
// answer was cut short.
func (s *stream) Wait() (int, error) {
	status, err := s.session.Wait()
	if err == nil {
		return status, nil
	}
	if errors.Is(err, sshclient.ErrNoStatus) {
		err = errors.New("connection lost")
	}
	again := "nothing was changed there: it is safe to run the command again"
	if !s.service.ReadsOnly() {
		again = "the push may have been accepted or not; it is safe to push again: what was accepted is then already there"
	}
	return status, cluster.WithHint(plain(s.replica.String(), err), again)
}

// Close ends the connection, and with it the service.
func (s *stream) Close() error { return s.conn.Close() }

// A refusedError is a service that has ended by itself, which is no fault of the
// server's. It has told the person why.
type refusedError struct{ status int }

func (e *refusedError) Error() string { return fmt.Sprintf("exit status %d", e.status) }

// awaitAnswer waits for the service's first byte while there are signs of life.
func (s *stream) awaitAnswer(ctx context.Context, stderr *sign, alive func(), limit time.Duration) error {
	service := s.service
	silent := time.AfterFunc(limit, func() { s.conn.Close() })
	stderr.setOnWrite(func() { alive(); silent.Reset(limit) })
	_, err := s.out.Peek(1)
	stderr.setOnWrite(nil)
	if err == nil && silent.Stop() {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if !silent.Stop() {
		return fmt.Errorf("%w from %s within %v", sshclient.ErrTimeout, service, limit)
	}
	late := time.AfterFunc(statusWait, func() { s.conn.Close() })
	defer late.Stop()
	status, err := s.session.Wait()
	if errors.Is(err, sshclient.ErrNoStatus) {
		err = errors.New("connection lost")
	}
	if err == nil {
		err = &refusedError{status}
	}
	hint := "check the repository's name and whether you may use it"
	if errors.Is(err, errNotConnected) {
		hint = "it has said why"
	}
	return cluster.WithHint(fmt.Errorf("%s ended before it answered: %w", service, err), hint)
}
