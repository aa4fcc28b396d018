// Package procreceive speaks the server's side of the conversations that Git's
// receive-pack has with its pre-receive and proc-receive hooks (githooks(5)).
//
// Entry points: [Serve] answers a proc-receive hook's input; [ReadCommands]
// reads a pre-receive hook's.
//
// It promises to bound what it reads, to report every update exactly once, and
// never to report one that was not asked about.
package procreceive

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/pktline"
)

// A Request is what one push asks for.
type Request struct {
	Updates []cluster.RefUpdate
	Options []string // push options, in their order
	Atomic  bool
}

// MaxUpdates bounds the refs of one push.
const MaxUpdates = 1_000_000

const (
	maxOptions = 1000
)

var errProtocol = errors.New("malformed proc-receive conversation")

// Serve reads a request from r, lets decide judge it, and writes the report to
// w. If decide fails nothing is reported, and receive-pack treats the hook as
// failed.
func Serve(r io.Reader, w io.Writer, decide func(Request) ([]cluster.RefResult, error)) error {
	in, out := bufio.NewReader(r), bufio.NewWriter(w)
	var q Request
	features, err := greeting(in)
	if err != nil {
		return err
	}
	answer := "version=1"
	options := false
	for _, f := range features {
		switch f {
		case "atomic":
			q.Atomic = true
		case "push-options":
			options = true
		}
	}
	if options {
		answer += "\x00push-options"
	}
	pktline.Write(out, answer+"\n")
	io.WriteString(out, pktline.Flush)
	if err := out.Flush(); err != nil {
		return err
	}
	for {
		line, err := readPacket(in)
		if err != nil {
			return err
		}
		if line == nil {
			break
		}
		u, err := parseUpdate(string(line))
		if err != nil {
			return err
		}
		if q.Updates = append(q.Updates, u); len(q.Updates) > MaxUpdates {
			return fmt.Errorf("%w: more than %d refs in one push", errProtocol, MaxUpdates)
		}
	}
	for options {
		line, err := readPacket(in)
		if err != nil {
			return err
		}
		if line == nil {
			break
		}
		if q.Options = append(q.Options, string(line)); len(q.Options) > maxOptions {
			return fmt.Errorf("%w: more than %d push options", errProtocol, maxOptions)
		}
	}
	results, err := decide(q)
	if err != nil {
		return err
	}
	for _, result := range results {
		if result.Refused == "" {
			pktline.Write(out, "ok "+string(result.Ref)+"\n")
		} else {
			pktline.Write(out, "ng "+string(result.Ref)+" "+pktline.OneLine(result.Refused)+"\n")
		}
	}
	io.WriteString(out, pktline.Flush)
	return out.Flush()
}

// ReadCommands reads the lines "old new ref" that a pre-receive hook gets.
func ReadCommands(r io.Reader) ([]cluster.RefUpdate, error) {
	var updates []cluster.RefUpdate
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4096), pktline.Max)
	for lines.Scan() {
		u, err := parseUpdate(lines.Text())
		if err != nil {
			return nil, err
		}
		if updates = append(updates, u); len(updates) > MaxUpdates {
			return nil, fmt.Errorf("%w: more than %d refs in one push", errProtocol, MaxUpdates)
		}
	}
	return updates, lines.Err()
}

func greeting(in *bufio.Reader) (features []string, err error) {
	line, err := readPacket(in)
	if err != nil {
		return nil, err
	}
	version, list, _ := strings.Cut(string(line), "\x00")
	if version != "version=1" {
		return nil, fmt.Errorf("%w: it starts with %q", errProtocol, version)
	}
	if end, err := readPacket(in); err != nil || end != nil {
		return nil, errors.Join(fmt.Errorf("%w: no flush after the version", errProtocol), err)
	}
	return strings.Fields(list), nil
}

func parseUpdate(line string) (u cluster.RefUpdate, err error) {
	old, rest, ok1 := strings.Cut(line, " ")
	new, ref, ok2 := strings.Cut(rest, " ")
	if !ok1 || !ok2 || ref == "" {
		return u, fmt.Errorf("%w: bad command of %d bytes", errProtocol, len(line))
	}
	if u.Old, err = cluster.ParseOID(old); err != nil {
		return u, fmt.Errorf("%w: %w", errProtocol, err)
	}
	if u.New, err = cluster.ParseOID(new); err != nil {
		return u, fmt.Errorf("%w: %w", errProtocol, err)
	}
	if len(u.Old) != len(u.New) {
		return u, fmt.Errorf("%w: two object formats in one command", errProtocol)
	}
	u.Ref = cluster.RefName(ref) // the engine judges names, so that a bad one fails alone
	return u, nil
}

// readPacket reads one pkt-line, without its line feed; nil stands for a flush
// packet.
func readPacket(in *bufio.Reader) ([]byte, error) {
	line, err := pktline.Read(in)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProtocol, noEOF(err))
	}
	return bytes.TrimSuffix(line, []byte("\n")), nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
