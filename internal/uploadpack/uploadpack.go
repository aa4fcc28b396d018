// Package uploadpack reads what a client that clones asks for, so that a node can give it a
// pack without an upload-pack in between (gitprotocol-v2(5), "fetch").
//
// Entry point: [Parse] makes a [Request] of a request's packets.
//
// It promises to understand nothing but the request of a client that has nothing yet and
// wants whole history: all that needs to be negotiated, and whatever is new in Git, is not
// ok, and for Git's own upload-pack. From a request that is ok follows the very pack that
// upload-pack would have had made.
package uploadpack

import (
	"slices"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/pktline"
)

// A Request is for a pack with all that some objects reach.
type Request struct {
	Wants   []cluster.OID // each once, in the order in which they were named
	Options []string      // of git pack-objects
}

// fetch is the first line of a request.
const fetch = "command=fetch"

// Parse reads the packets of one request, from its command to its flush packet.
func Parse(raw []byte, format cluster.ObjectFormat) (q Request, ok bool) {
	asked, first, arguments := map[string]bool{}, true, false
	for {
		text, n, rest, whole := pktline.Cut(raw)
		line := strings.TrimSuffix(string(text), "\n")
		switch {
		case !whole, first && line != fetch:
			return Request{}, false
		case n == pktline.FlushPacket:
			q.Options = optionsFor(asked)
			return q, len(rest) == 0 && len(q.Wants) > 0 && asked["done"]
		case n == pktline.DelimPacket && !arguments:
			arguments = true
		case n < pktline.Digits:
			return Request{}, false
		case first:
			first = false
		case !arguments:
			if !capability(line, format) {
				return Request{}, false
			}
		default:
			switch want, isWant := strings.CutPrefix(line, "want "); {
			case isWant && len(want) != len(format.Zero()):
				return Request{}, false
			case isWant:
				if !asked[line] {
					q.Wants = append(q.Wants, cluster.OID(want))
				}
			case !slices.Contains(understood, line):
				return Request{}, false
			}
			asked[line] = true
		}
		raw = rest
	}
}

// capability reports whether what a client says of itself changes nothing.
func capability(line string, format cluster.ObjectFormat) bool {
	name, value, _ := strings.Cut(line, "=")
	switch name {
	case "agent", "session-id":
		return true
	case "object-format":
		return value == string(format)
	}
	return false
}

// understood is what a request may say besides what it wants.
var understood = []string{"done", "thin-pack", "no-progress", "ofs-delta", "include-tag"}

// optionsFor returns the options that upload-pack gives pack-objects, in its order.
func optionsFor(asked map[string]bool) (options []string) {
	for _, o := range []struct {
		name string
		set  bool
	}{
		{"--revs", true},
		{"--thin", asked["thin-pack"]},
		{"--stdout", true},
		{"--progress", !asked["no-progress"]},
		{"--delta-base-offset", asked["ofs-delta"]},
		{"--include-tag", asked["include-tag"]},
	} {
		if o.set {
			options = append(options, o.name)
		}
	}
	return options
}

// Args is the pack-objects that upload-pack would run, and [Request.Revs] what it would
// give it on standard input: by them equal requests are known, whoever serves them.
func (q Request) Args() []string {
	return append([]string{"git", "pack-objects"}, q.Options...)
}

// Revs names what the pack is to reach.
func (q Request) Revs() string {
	var b strings.Builder
	for _, oid := range q.Wants {
		b.WriteString(string(oid) + "\n")
	}
	b.WriteString("--not\n\n")
	return b.String()
}
