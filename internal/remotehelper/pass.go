package remotehelper

import (
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"
)

// teardown is how long the exit status may lag behind the end of the service's
// output. By then Git has everything it will get.
const teardown = time.Second

// pass copies both ways until the service's output ends. spoke is closed when
// nobody else reads from h.in any more.
func (h *helper) pass(ctx context.Context, service Service, stream Stream, spoke <-chan struct{}) error {
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer stop()

	var told tally
	unread := make(chan struct{})
	go func() {
		<-spoke
		h.passUp(stream, &told)
		// Git has said all it will. If it does not listen either, then it has
		// what it wanted, or is dead. A push is left to end by itself.
		if service.ReadsOnly() && waitUnread(h.out) {
			close(unread)
			stream.Close()
		}
	}()

	// The tally goes first: what Git says next may be about these very bytes.
	_, err := io.CopyBuffer(io.MultiWriter(&told, onlyWriter{h.out}), onlyReader{stream}, make([]byte, bufferSize))
	select {
	case <-unread:
		return nil
	default:
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var w writeError
	if errors.As(err, &w) {
		return ErrGitGone
	}

	type ending struct {
		status int
		err    error
	}
	ended := make(chan ending, 1)
	go func() {
		status, err := stream.Wait()
		ended <- ending{status, err}
	}()
	late := time.NewTimer(teardown)
	defer late.Stop()
	select {
	case e := <-ended:
		select {
		case <-unread: // it was closed before it had ended
			return nil
		default:
		}
		return told.verdict(service, e.status, e.err)
	case <-late.C:
		return told.verdict(service, -1, errNoEnding)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var errNoEnding = errors.New("the service closed its output but did not end")

// passUp copies what Git says to the service, and then that this was all. When
// the service takes no more, its output will end soon, which ends pass.
func (h *helper) passUp(stream Stream, told *tally) {
	// Here, too, the tally goes first: the answer may be there before this has been
	// counted.
	if _, err := io.CopyBuffer(io.MultiWriter(&told.asked, onlyWriter{stream}), onlyReader{h.in}, make([]byte, bufferSize)); err == nil {
		stream.CloseWrite()
	}
}

// A tally remembers the last four bytes that the service said, and how much Git has
// said since.
type tally struct {
	last  [4]byte
	asked counter
}

// A counter counts the bytes that are written to it.
type counter struct{ atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.Add(int64(len(p)))
	return len(p), nil
}

func (t *tally) Write(p []byte) (int, error) {
	t.asked.Store(0)
	if len(p) >= len(t.last) {
		copy(t.last[:], p[len(p)-len(t.last):])
	} else {
		copy(t.last[:], t.last[len(p):])
		copy(t.last[len(t.last)-len(p):], p)
	}
	return len(p), nil
}

// verdict decides whether the service has failed, from how its output ended.
//
// Git itself notices every answer that is cut short: each of its services ends
// its answer with a flush packet ("0000"), or its pack with a checksum. So Git
// needs no status from us to detect a failure, but it does believe one: it
// deletes a fresh clone, or reports a push that has landed as failed. Therefore
// a status, or the lack of one, that comes after a flush is taken for noise of
// the teardown: the server's process was killed after its work, a wrapper
// failed, the connection was reset. Before a flush it is passed on, so that a
// failure is never hidden where the answer is not whole.
//
// A flush also ends what the service says first, and each of several answers. When
// Git has said something since, and more than the flush by which it takes its leave,
// then a connection that ends was lost, and a push may have landed or not.
func (t *tally) verdict(service Service, status int, err error) error {
	switch {
	case err == nil && status == 0:
		return nil
	case string(t.last[:]) == flush && (err == nil || t.asked.Load() <= int64(len(flush))):
		return nil
	case err == nil:
		return &StatusError{Service: service, Status: status}
	}
	return err
}

// flush is the packet that ends an answer (gitprotocol-common(5)).
const flush = "0000"

// writeError marks an error of Git's side of a copy.
type writeError struct{ error }

// onlyWriter hides ReadFrom, by which io.Copy would go round the buffer given to
// it: os.File's tries a system call that pipes and sockets of ours never suit.
type onlyWriter struct{ w io.Writer }

func (o onlyWriter) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		err = writeError{err}
	}
	return n, err
}

// onlyReader hides WriteTo, likewise.
type onlyReader struct{ r io.Reader }

func (o onlyReader) Read(p []byte) (int, error) { return o.r.Read(p) }

// waitUnread waits until nobody can read what is written to out. It returns
// false where that cannot be told.
func waitUnread(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && pollUnread(f)
}
