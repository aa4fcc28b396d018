package localsocket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// A frameType says what a frame carries. After the request line, everything in
// both directions is frames: a byte of type, four bytes of length, most
// significant first, and that many bytes.
type frameType byte

const (
	frameStdin    frameType = 1 + iota // to the node: input
	frameStdinEOF                      // to the node: no more input; empty
	frameStdout                        // from the node: output
	frameStderr                        // from the node: messages
	frameExit                          // from the node, last: an exitFrame
	frameError                         // from the node, last: an errorFrame; nothing ran, or not to its end
)

// maxFrame is the greatest length of a frame's content.
const maxFrame = 64 << 10

// An exitFrame is how a command ended.
type exitFrame struct {
	Status *int `json:"status"` // a frame without one is not a success
}

// An errorFrame is why a request has no exit status.
type errorFrame struct {
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// errBadFrame: what arrived is not the protocol of this package.
var errBadFrame = errors.New("malformed frame")

// readFrame reads one frame into buf, which has room for the greatest one, and
// returns its part of buf. It returns [io.EOF] only between two frames.
func readFrame(r io.Reader, buf []byte) (frameType, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	kind, length := frameType(head[0]), binary.BigEndian.Uint32(head[1:])
	if kind < frameStdin || kind > frameError {
		return 0, nil, fmt.Errorf("%w: type %d", errBadFrame, kind)
	}
	if length > maxFrame || int(length) > len(buf) {
		return 0, nil, fmt.Errorf("%w: %d bytes", errBadFrame, length)
	}
	if kind == frameStdinEOF && length > 0 {
		return 0, nil, fmt.Errorf("%w: an end of input with %d bytes", errBadFrame, length)
	}
	content := buf[:length]
	if _, err := io.ReadFull(r, content); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind, content, nil
}

// A frameWriter writes frames, for several goroutines. Who does not read makes
// it wait.
type frameWriter struct {
	mu   sync.Mutex
	w    io.Writer
	buf  []byte
	done bool // the last frame is written
}

// send writes the content in as many frames as it needs, at least one.
func (f *frameWriter) send(kind frameType, content []byte) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return 0, io.ErrClosedPipe
	}
	f.done = kind == frameExit || kind == frameError || kind == frameStdinEOF
	for first := true; first || len(content) > 0; first = false {
		part := content[:min(len(content), maxFrame)]
		f.buf = append(f.buf[:0], byte(kind))
		f.buf = binary.BigEndian.AppendUint32(f.buf, uint32(len(part)))
		f.buf = append(f.buf, part...)
		if _, err := f.w.Write(f.buf); err != nil {
			return n, err
		}
		n += len(part)
		content = content[len(part):]
	}
	return n, nil
}

// stream is the writer of one kind of frame.
func (f *frameWriter) stream(kind frameType) io.Writer { return frameStream{f, kind} }

type frameStream struct {
	frames *frameWriter
	kind   frameType
}

func (s frameStream) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return s.frames.send(s.kind, p)
}
