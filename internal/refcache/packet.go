package refcache

import (
	"bufio"
	"bytes"
	"io"
	"strconv"
)

// Git's protocol is made of packets (gitprotocol-common(5)): four hexadecimal digits that
// say how long each is, with themselves, and three that are only such digits.
const (
	digits      = 4
	longest     = 65520
	flushPacket = 0
)

// length reads a packet's digits, as Git does. What is neither a packet's length nor one
// of those that stand by themselves is not ok.
func length(b []byte) (n int, ok bool) {
	v, err := strconv.ParseUint(string(b), 16, 16)
	n = int(v)
	return n, err == nil && n != 3 && n <= longest
}

// listRefs is the first packet of a request for refs, which Git writes without a line's
// end, or with one.
var listRefs = []byte("command=ls-refs")

// A request is what a client has sent.
type request struct {
	raw  []byte // all that was read
	refs bool   // it is one request for refs, whole
	done bool   // the client has nothing more to ask
}

// read reads the client's next request as far as it takes to know what it is, and one for
// refs to its end. What is nothing of the sort is for Git to say something about. That
// the client cannot be heard any more is an end like another, as it is for Git.
func read(r *bufio.Reader) (q request) {
	for first := true; ; first = false {
		head, err := r.Peek(digits)
		if err != nil {
			q.done = first && len(head) == 0
			q.take(r, len(head))
			return q
		}
		n, ok := length(head)
		switch {
		case !ok, len(q.raw)+max(n, digits) > maxRequest:
			return q
		case n == flushPacket:
			q.take(r, digits)
			q.done, q.refs = first, !first
			return q
		}
		from := len(q.raw) + digits
		if q.take(r, max(n, digits)) != nil {
			return q
		}
		if first && (n < digits || !bytes.Equal(bytes.TrimSuffix(q.raw[from:], []byte("\n")), listRefs)) {
			return q
		}
	}
}

// take reads so many bytes.
func (q *request) take(r io.Reader, n int) error {
	from := len(q.raw)
	q.raw = append(q.raw, make([]byte, n)...)
	got, err := io.ReadFull(r, q.raw[from:])
	q.raw = q.raw[:from+got]
	return err
}

// A section collects packets until one that ends them, however they are cut in
// pieces.
type section struct {
	said  []byte
	limit int
	next  int // where in said the next packet begins
	whole bool
	bad   bool // it is no section, or a longer one
}

// write takes of p what belongs to the section, and returns what comes after it.
func (s *section) write(p []byte) (rest []byte) {
	for len(p) > 0 && !s.whole && !s.bad {
		// To the end of the next packet, or first of its digits.
		end, sized := s.next+digits, false
		if len(s.said) >= end {
			n, _ := length(s.said[s.next:end])
			end, sized = s.next+n, true
		}
		take := min(end-len(s.said), len(p))
		if len(s.said)+take > s.limit {
			s.bad = true
			break
		}
		s.said, p = append(s.said, p[:take]...), p[take:]
		if len(s.said) < end {
			break
		}
		if sized {
			s.next = end
			continue
		}
		switch n, ok := length(s.said[s.next:end]); {
		case !ok:
			s.bad = true
		case n == flushPacket:
			s.whole = true
		case n <= digits:
			s.next = end
		}
	}
	return p
}
