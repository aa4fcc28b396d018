package localsocket

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// errCallerGone: the caller went away before its input ended.
var errCallerGone = errors.New("the caller went away")

// input hands a caller's input over from its connection to whoever reads it. It
// holds one frame, so a reader that is slow makes the caller wait; and it keeps
// an eye on the connection at all times, so a caller that goes away is noticed
// even when nobody reads.
type input struct {
	frames chan []byte   // unbuffered: a frame is taken when the one before is used up
	ended  chan struct{} // closed after the last frame
	err    error         // of the end; set before ended is closed
	unread chan struct{} // closed when nobody will read any more
	once   sync.Once
}

func newInput() *input {
	return &input{frames: make(chan []byte), ended: make(chan struct{}), unread: make(chan struct{})}
}

// close says that nobody will read any more.
func (in *input) close() { in.once.Do(func() { close(in.unread) }) }

// fill passes frames on until the caller goes away, and returns then.
func (in *input) fill(ctx context.Context, conn *net.UnixConn, r io.Reader) {
	// Two buffers: the reader may be using one while the next frame is read.
	bufs := [2][]byte{make([]byte, maxFrame), make([]byte, maxFrame)}
	open := true
	end := func(err error) {
		if open {
			open = false
			in.err = err
			close(in.ended)
		}
	}
	defer end(errCallerGone)
	for i := 0; ; i = 1 - i {
		kind, content, err := readFrame(r, bufs[i])
		if err != nil {
			return
		}
		switch {
		case kind == frameStdin && open:
			if len(content) == 0 {
				continue
			}
			taken, gone := in.pass(ctx, conn, content)
			if gone {
				return
			}
			if !taken {
				// Something the command left behind may still look at what it
				// took; the rest goes where nobody looks.
				bufs[0] = make([]byte, maxFrame)
				bufs[1] = bufs[0]
			}
		case kind == frameStdinEOF && open:
			end(io.EOF)
		default:
			end(errBadFrame)
			return
		}
	}
}

// pass waits until the content is taken or nobody will take it, or until the
// caller has gone away.
func (in *input) pass(ctx context.Context, conn *net.UnixConn, content []byte) (taken, gone bool) {
	stalled := time.NewTicker(stallCheck)
	defer stalled.Stop()
	for {
		select {
		case in.frames <- content:
			return true, false
		case <-in.unread:
			return false, false // the command is over, its exit status on its way
		case <-ctx.Done():
			return false, true
		case <-stalled.C:
			// With input still unread, the connection's end cannot be read.
			if hungUp(conn) {
				return false, true
			}
		}
	}
}

// reader returns the reading side. It is for one goroutine at a time.
func (in *input) reader(ctx context.Context) io.Reader {
	return &inputReader{in: in, ctx: ctx}
}

type inputReader struct {
	in   *input
	ctx  context.Context // of the request, as is the reader itself
	rest []byte
}

func (r *inputReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(r.rest) == 0 {
		select {
		case r.rest = <-r.in.frames:
		case <-r.in.ended:
			return 0, r.in.err
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
