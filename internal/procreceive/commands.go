package procreceive

import (
	"bytes"
	"io"
	"strconv"
)

// Commands is what the beginning of a push says of the rest.
type Commands struct {
	Count int // of its refs; with a certificate they are in that, and not counted
	// Certificate: the push is signed, or begins in a way that only Git itself
	// understands.
	Certificate bool
}

// Listen returns a reader that passes on what a client sends to receive-pack
// (gitprotocol-pack(5), "Reference Update Request"). As soon as it knows the commands,
// and before receive-pack can have read the last of them, it calls heard; an error from
// that ends the input. It keeps nothing of what it reads.
func Listen(r io.Reader, heard func(Commands) error) io.Reader {
	return &listener{r: r, heard: heard}
}

type listener struct {
	r     io.Reader
	heard func(Commands) error // nil once it has been called
	found Commands
	err   error

	packet  []byte // the first bytes of a packet: its length and what kind of line it is
	skip    int    // bytes of the packet that do not matter
	packets int
}

var (
	certificateLine = []byte("push-cert")
	shallowLine     = []byte("shallow ")
)

// kindSize is how much of a line tells what kind it is.
var kindSize = max(len(certificateLine), len(shallowLine))

func (l *listener) Read(p []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	n, err := l.r.Read(p)
	if l.heard != nil && l.listen(p[:n]) {
		heard := l.heard
		l.heard = nil
		if l.err = heard(l.found); l.err != nil {
			return 0, l.err
		}
	}
	return n, err
}

// listen reports whether the commands are now known.
func (l *listener) listen(p []byte) bool {
	for len(p) > 0 {
		if l.skip > 0 {
			n := min(l.skip, len(p))
			l.skip, p = l.skip-n, p[n:]
			continue
		}
		l.packet, p = append(l.packet, p[0]), p[1:]
		if len(l.packet) < 4 {
			continue
		}
		size, err := strconv.ParseUint(string(l.packet[:4]), 16, 16)
		switch length := int(size); {
		case err == nil && length == 0:
			return true // a flush: no more commands
		case err != nil || length < 4 || length > maxPacket || l.packets >= MaxUpdates:
			l.found.Certificate = true
			return true
		case len(l.packet) < min(length, 4+kindSize):
			continue
		default:
			line := l.packet[4:]
			if bytes.HasPrefix(line, certificateLine) {
				l.found.Certificate = true
				return true
			}
			if !bytes.HasPrefix(line, shallowLine) {
				l.found.Count++
			}
			l.packets++
			l.skip, l.packet = length-len(l.packet), l.packet[:0]
		}
	}
	return false
}
