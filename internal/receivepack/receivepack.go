// Package receivepack speaks the server's side of a push (gitprotocol-pack(5), "Pushing
// Data To a Server") in the node's own process: it lists refs, reads what a client asks
// for, and writes the report. What is done about it is its caller's business.
//
// Entry points: [Advertise] lists the refs; [Read] reads a [Request]; a [Band] carries
// what a person is told, and the report.
//
// It promises to bound what it reads, to understand the usual push and to give every
// other back as it came, for Git's own receive-pack to judge, and to report each update
// exactly once.
package receivepack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/pktline"
)

// Offers are what a listing says of the server beside its refs.
type Offers struct {
	Format  cluster.ObjectFormat
	Version int    // of the protocol, if the client has asked for 1; else 0
	Nonce   string // for a signed push; "" offers none
	Agent   string
}

// Advertise writes the listing that a push begins with; refs come in the order of their
// names.
func Advertise(w io.Writer, o Offers, refs iter.Seq2[cluster.RefName, cluster.OID]) error {
	out := bufio.NewWriterSize(w, pktline.Max)
	if o.Version == 1 {
		pktline.Write(out, "version 1\n")
	}
	features := "report-status report-status-v2 delete-refs side-band-64k quiet atomic ofs-delta"
	if o.Nonce != "" {
		features += " push-cert=" + o.Nonce
	}
	features = "\x00" + features + " push-options object-format=" + string(o.Format) + " agent=" + o.Agent
	for ref, value := range refs {
		pktline.Write(out, string(value)+" "+string(ref)+features+"\n")
		features = ""
	}
	if features != "" {
		pktline.Write(out, string(o.Format.Zero())+" capabilities^{}"+features+"\n")
	}
	out.WriteString(pktline.Flush)
	return out.Flush()
}

// A Request is what a client asks for before it sends a pack.
type Request struct {
	Updates []cluster.RefUpdate
	Options []string // push options, in their order
	Atomic  bool
	Quiet   bool // it wants no progress
	// Odd marks a request that only Git's own receive-pack is to judge: a signed one,
	// one of a shallow repository, one of many refs, of an old client or not well formed.
	// Nothing but Said then counts.
	Odd bool
	// Said is what was read.
	Said []byte
}

// HasPack reports whether a pack follows.
func (q *Request) HasPack() bool {
	return slices.ContainsFunc(q.Updates, func(u cluster.RefUpdate) bool { return !u.New.IsZero() })
}

// ErrGone: the client has ended the conversation before it said what it wants.
var ErrGone = errors.New("the client has gone")

const (
	maxSaid    = 4 << 20 // bytes of a request that is understood here
	maxOptions = 1000
	maxRef     = 4096 // bytes of a name, which with a reason must fit into a packet
)

// Read reads a request for a repository of that object format. One without updates wants
// nothing.
func Read(in *bufio.Reader, format cluster.ObjectFormat) (*Request, error) {
	q := &Request{}
	options := false
	for {
		line, err := q.line(in)
		if err != nil || q.Odd {
			return q, err
		}
		if line == nil {
			break
		}
		text, features, first := strings.Cut(string(line), "\x00")
		if first != (len(q.Updates) == 0) {
			q.Odd = true
			return q, nil
		}
		if first {
			var usual bool
			if usual, options = q.features(strings.Fields(features), format); !usual {
				q.Odd = true
				return q, nil
			}
		}
		u, ok := update(text, format)
		if !ok {
			q.Odd = true // a certificate, a shallow line, or nonsense
			return q, nil
		}
		q.Updates = append(q.Updates, u)
	}
	for options && len(q.Updates) > 0 {
		line, err := q.line(in)
		if err != nil || q.Odd {
			return q, err
		}
		if line == nil {
			break
		}
		if q.Options = append(q.Options, string(line)); len(q.Options) > maxOptions {
			q.Odd = true
		}
	}
	return q, nil
}

// line reads a packet, without its line feed; nil stands for a flush packet.
func (q *Request) line(in *bufio.Reader) ([]byte, error) {
	line, err := pktline.Read(in)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	case err != nil:
		return nil, err
	case line == nil:
		q.Said = append(q.Said, pktline.Flush...)
		return nil, nil
	}
	q.Said = append(fmt.Appendf(q.Said, "%04x", len(line)+4), line...)
	if len(q.Said) > maxSaid {
		q.Odd = true
	}
	return bytes.TrimSuffix(line, []byte("\n")), nil
}

// features notes what the client wants of what it was offered. It is usual to want a
// report, and to be able to hear other things beside it.
func (q *Request) features(all []string, format cluster.ObjectFormat) (usual, options bool) {
	spoken := cluster.SHA1
	report, band := false, false
	for _, f := range all {
		switch f {
		case "report-status", "report-status-v2":
			report = true
		case "side-band-64k":
			band = true
		case "atomic":
			q.Atomic = true
		case "quiet":
			q.Quiet = true
		case "push-options":
			options = true
		default:
			if name, ok := strings.CutPrefix(f, "object-format="); ok {
				spoken = cluster.ObjectFormat(name)
			}
		}
	}
	return report && band && spoken == format, options
}

// update reads "old new ref". The engine judges names, so that a bad one fails alone.
func update(text string, format cluster.ObjectFormat) (u cluster.RefUpdate, ok bool) {
	old, rest, _ := strings.Cut(text, " ")
	new, ref, _ := strings.Cut(rest, " ")
	var err1, err2 error
	u.Old, err1 = cluster.ParseOID(old)
	u.New, err2 = cluster.ParseOID(new)
	u.Ref = cluster.RefName(ref)
	width := len(format.Zero())
	return u, err1 == nil && err2 == nil && len(old) == width && len(new) == width && ref != "" && len(ref) <= maxRef
}
