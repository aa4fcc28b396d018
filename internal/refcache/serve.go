package refcache

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitexec"
)

// A Fetch is one upload-pack that a client asks for, in [Version2].
type Fetch struct {
	Repo     cluster.RepoID
	Format   cluster.ObjectFormat
	Position cluster.Position // what the replica shows
	// State names what its refs show, and Now tells what it is at the moment; 0: not
	// known.
	State uint64
	Now   func() uint64
	// Stateless: it is one request of a fetch over HTTP, which has the list already.
	Stateless bool
	// Run runs the upload-pack itself.
	Run func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error

	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer // nil: Run has a use for it
}

// same reports whether the refs are those of the fetch's state.
func (f *Fetch) same() bool { return f.State != 0 && f.Now() == f.State }

func (f *Fetch) listing() listing { return listing{f.Format, f.Stateless} }

// errChanged: what was told to the client is not what the program says now.
var errChanged = errors.New("git was exchanged during the fetch; try again")

// Advertise answers the first request of a fetch over HTTP, which is for the list of
// capabilities. Run runs the upload-pack that prints it.
func (c *Cache) Advertise(ctx context.Context, f Fetch) error {
	f.Stateless = true
	if said := c.list(&f); said != nil {
		_, err := f.Stdout.Write(said)
		return err
	}
	return c.learn(ctx, &f, f.Stdout)
}

// learn has an upload-pack print its list of capabilities, which it does before it
// listens.
func (c *Cache) learn(ctx context.Context, f *Fetch, to io.Writer) error {
	w := &watch{to: to, list: &section{limit: maxList}}
	err := f.Run(ctx, nil, w, f.Stderr)
	if err == nil && !w.more {
		err = c.heard(f, w)
	}
	return err
}

// Serve answers a client: with what is kept for as long as it asks for nothing else, and
// from then on with an upload-pack.
func (c *Cache) Serve(ctx context.Context, f Fetch) error {
	var told []byte // the list that the client has from here
	if !f.Stateless {
		if told = c.list(&f); told == nil {
			if err := c.learn(ctx, &f, io.Discard); err != nil {
				return err
			}
			if told = c.list(&f); told == nil { // it is not one to be kept
				return c.start(ctx, &f, request{}, nil, f.Stdin)
			}
		}
		if _, err := f.Stdout.Write(told); err != nil {
			return err
		}
	}
	in := bufio.NewReader(f.Stdin)
	for {
		// Whoever reads from the client cannot be called off, and need not be: what it
		// reads from ends with the request.
		next := make(chan request, 1)
		go func() { next <- read(in) }()
		var q request
		select {
		case q = <-next:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if q.done {
			return nil
		}
		var said []byte
		if q.refs {
			said = c.find(&f, ask(&f, q.raw))
		}
		if said == nil {
			return c.start(ctx, &f, q, told, in)
		}
		if _, err := f.Stdout.Write(said); err != nil || f.Stateless {
			return err
		}
	}
}

// start runs an upload-pack for a client that has been told the list of capabilities, or
// was told nothing, and has sent q and may send more. It notes what can be kept.
func (c *Cache) start(ctx context.Context, f *Fetch, q request, told []byte, more io.Reader) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &watch{to: f.Stdout, told: told, fail: cancel}
	if !f.Stateless {
		w.list = &section{limit: maxList}
	}
	stderr, complaints := f.Stderr, &notice{to: f.Stderr}
	if q.refs && f.same() {
		w.answer = &section{limit: maxAnswer}
		stderr = complaints
	}
	err := f.Run(ctx, io.MultiReader(bytes.NewReader(q.raw), more), w, stderr)
	if w.list != nil {
		if err := c.heard(f, w); err != nil {
			return err
		}
	}
	// However the process has ended: the answer was whole by then. But one that could not
	// read something leaves it out.
	if w.answer != nil && w.answer.whole && !complaints.any {
		c.keep(f, ask(f, q.raw), bytes.Clone(w.answer.said))
	}
	if exit := (*gitexec.ExitError)(nil); errors.As(err, &exit) && exit.Stderr == "" {
		exit.Stderr = strings.TrimSpace(string(complaints.said))
	}
	return err
}

// heard notes the list of capabilities that a process has printed. It is an error if the
// client was told another.
func (c *Cache) heard(f *Fetch, w *watch) error {
	said := w.list.said
	switch {
	case w.changed:
		c.dropList(f)
		return errChanged
	case !w.list.whole, w.told != nil:
	case bytes.HasPrefix(said, []byte("000eversion 2\n")) && !bytes.Contains(said, []byte("session-id=")):
		c.keepList(f, bytes.Clone(said))
	}
	return nil
}

// A watch is between an upload-pack and its client.
type watch struct {
	to   io.Writer
	told []byte                  // the list that the client has; nil: none, it gets what comes
	fail context.CancelCauseFunc // ends the process
	list *section                // what comes first; nil: nothing does
	// answer is what comes then, if it is worth to be kept.
	answer *section

	changed bool // the list is not the one that was told
	more    bool // something has come after the list
}

func (w *watch) Write(p []byte) (int, error) {
	if w.changed {
		return 0, errChanged
	}
	rest := p
	if w.list != nil && !w.list.whole && !w.list.bad {
		rest = w.list.write(p)
		if w.told != nil {
			if w.list.bad || !bytes.HasPrefix(w.told, w.list.said) || w.list.whole && len(w.list.said) != len(w.told) {
				w.changed = true
				w.fail(errChanged)
				return 0, errChanged
			}
			if len(rest) == 0 {
				return len(p), nil
			}
			return w.pass(len(p), rest, rest)
		}
	}
	return w.pass(len(p), p, rest)
}

// pass hands all to the client, of which rest is behind the list, and returns n for who
// has written that many bytes.
func (w *watch) pass(n int, all, rest []byte) (int, error) {
	w.more = w.more || len(rest) > 0
	if w.answer != nil && !w.answer.whole && !w.answer.bad {
		w.answer.write(rest)
		if w.answer.bad {
			w.answer.said = nil
		}
	}
	if _, err := w.to.Write(all); err != nil {
		return 0, err
	}
	return n, nil
}

// A notice knows whether anything has been written.
type notice struct {
	to   io.Writer // nil: the beginning is kept for an error
	any  bool
	said []byte
}

func (n *notice) Write(p []byte) (int, error) {
	n.any = true
	if n.to != nil {
		return n.to.Write(p)
	}
	n.said = append(n.said, p[:min(len(p), maxSaid-len(n.said))]...)
	return len(p), nil
}

// maxSaid is how much is kept of what a process complains of.
const maxSaid = 2 << 10
