package httpserver

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// An exchange is one request and its answer, with a clock on either: it runs while
// the client has to send or to take something, and at no other time.
type exchange struct {
	http.ResponseWriter
	control *http.ResponseController
	request *http.Request // with its body on the clock
	body    *body         // nil if there is none
	stall   time.Duration
}

func (s *Server) exchange(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{ResponseWriter: w, control: http.NewResponseController(w), request: r, stall: s.limits.Stall}
	if r.Body != nil && r.Body != http.NoBody {
		x.body = &body{r: r.Body, control: x.control, stall: s.limits.Stall}
		if r.ProtoMajor == 1 {
			// Of a body that nobody reads, net/http reads on for a while itself. Under
			// HTTP/2 it does not, and there a deadline ends the body by itself.
			x.control.SetReadDeadline(time.Now().Add(s.limits.Stall))
		}
		r = r.WithContext(r.Context())
		r.Body = x.body
		x.request = r
	}
	return x
}

// finish ends what still reads the body, and puts the clock on what net/http
// itself has left to write.
func (x *exchange) finish() {
	if x.body != nil && !x.body.stop() && x.request.ProtoMajor == 1 {
		x.FlushError()
		if !x.body.drain() {
			// What is left of this body must not be taken for the next request, which
			// it could be made to look like; there is no other way to tell net/http.
			io.Copy(io.Discard, http.MaxBytesReader(x.ResponseWriter, io.NopCloser(strings.NewReader("!")), 0))
		}
	}
	x.control.SetWriteDeadline(time.Now().Add(x.stall))
}

func (x *exchange) Write(p []byte) (n int, err error) {
	err = x.timed(func() error { n, err = x.ResponseWriter.Write(p); return err })
	return n, err
}

// FlushError sends what has been written; it is what [http.ResponseController]
// looks for.
func (x *exchange) FlushError() error { return x.timed(x.control.Flush) }

// Flush is FlushError for handlers that look for an [http.Flusher].
func (x *exchange) Flush() { x.FlushError() }

// Unwrap is for [http.ResponseController].
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

func (x *exchange) timed(write func() error) error {
	x.control.SetWriteDeadline(time.Now().Add(x.stall))
	err := write()
	// Under HTTP/2 a deadline that passes while nobody writes ends the stream.
	x.control.SetWriteDeadline(time.Time{})
	return err
}

// linger is how long a client has for the rest of a body that nobody wants.
const linger = time.Second

var errBodyStopped = errors.New("the request is over")

// A body is a request's body. It is read by a copier beside the process that it
// is for, which may end first.
type body struct {
	r       io.Reader
	control *http.ResponseController
	stall   time.Duration

	reading sync.Mutex // held by Read
	mu      sync.Mutex // guards what follows, and the deadline
	stopped bool
	ended   bool // at EOF
}

func (b *body) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	b.mu.Lock()
	if b.stopped {
		b.mu.Unlock()
		return 0, errBodyStopped
	}
	b.control.SetReadDeadline(time.Now().Add(b.stall))
	b.mu.Unlock()
	n, err := b.r.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = b.ended || err == io.EOF
	if b.ended || !b.stopped {
		// After the body, net/http reads on to learn that the client hangs up; a
		// deadline would look like that.
		b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

func (b *body) Close() error { return nil } // the server closes its own

// wait sets how long the client may be silent from the next Read on.
func (b *body) wait(stall time.Duration) {
	if b == nil {
		return // a request without one
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stall = stall
}

// stop waits until nobody reads any more, and no longer than a moment for a client
// that does not send: after the handler's end net/http may not be asked for more. It
// reports whether the body has come to its end.
func (b *body) stop() bool {
	b.mu.Lock()
	b.stopped = true
	if !b.ended {
		b.control.SetReadDeadline(time.Now().Add(linger))
	}
	b.mu.Unlock()
	b.reading.Lock()
	defer b.reading.Unlock()
	return b.ended
}

// drain reads a small rest of a body that has been stopped, and reports whether
// that was all, so that the connection can serve another request. net/http would do it too
// late where an answer may precede its request's end (go.dev/issue/68560).
func (b *body) drain() bool {
	const most = 256 << 10
	b.control.SetReadDeadline(time.Now().Add(linger))
	_, err := io.CopyN(io.Discard, b.r, most)
	return err == io.EOF
}
