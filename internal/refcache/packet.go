package refcache

import (
	"bufio"
	"io"
	"strings"

	"gitcluster/internal/pktline"
)

// The first packets of requests that are read to their end, which Git writes without a
// line's end, or with one.
const (
	listRefs = "command=ls-refs"
	fetch    = "command=fetch"
)

// A request is what a client has sent.
type request struct {
	raw   []byte // all that was read
	refs  bool   // it is one request for refs, whole
	fetch bool   // it is one for objects, whole
	done  bool   // the client has nothing more to ask
}

// read reads the client's next request as far as it takes to know what it is, and one for
// refs or objects to its end. What is nothing of the sort is for Git to say something about. That
// the client cannot be heard any more is an end like another, as it is for Git.
func read(r *bufio.Reader) (q request) {
	command := ""
	for first := true; ; first = false {
		head, err := r.Peek(pktline.Digits)
		if err != nil {
			q.done = first && len(head) == 0
			q.take(r, len(head))
			return q
		}
		n, ok := pktline.Length(head)
		switch {
		case !ok, len(q.raw)+max(n, pktline.Digits) > maxRequest:
			return q
		case n == pktline.FlushPacket:
			q.take(r, pktline.Digits)
			q.done, q.refs, q.fetch = first, command == listRefs, command == fetch
			return q
		}
		from := len(q.raw) + pktline.Digits
		if q.take(r, max(n, pktline.Digits)) != nil {
			return q
		}
		if first {
			command = strings.TrimSuffix(string(q.raw[min(from, len(q.raw)):]), "\n")
			if command != listRefs && command != fetch {
				return q
			}
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
		end, sized := s.next+pktline.Digits, false
		if len(s.said) >= end {
			n, _ := pktline.Length(s.said[s.next:end])
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
		switch n, ok := pktline.Length(s.said[s.next:end]); {
		case !ok:
			s.bad = true
		case n == pktline.FlushPacket:
			s.whole = true
		case n <= pktline.Digits:
			s.next = end
		}
	}
	return p
}
