package refcache

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

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
	// Turn waits until one more process may be started, and says when it has ended.
	Turn func() (leave func(), err error)
	// Run runs the upload-pack itself, and Once one for a single request, which is what
	// Run does for one over HTTP. Whoever calls them has had their turn.
	Run, Once func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error
	// Pack answers one request for objects, whole and as it came, if that takes no
	// upload-pack; else it says nothing and is not ok. nil: it always does.
	Pack func(ctx context.Context, request []byte) (ok bool, err error)

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
	leave, err := f.Turn()
	if err != nil {
		return err
	}
	defer leave()
	w := &watch{to: to, list: &section{limit: maxList}}
	err = f.Run(ctx, nil, w, f.Stderr)
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
		switch {
		case q.refs:
			if err := c.tell(ctx, &f, q.raw); err != nil || f.Stateless {
				return err
			}
			continue
		case q.fetch && f.Pack != nil:
			if ok, err := f.Pack(ctx, q.raw); err != nil || ok && f.Stateless {
				return err
			} else if ok {
				continue
			}
		}
		return c.start(ctx, &f, q, told, in)
	}
}

// tell answers a request for refs: with what is kept, or by a process of its own, so that
// what that says can be kept as soon as it has ended. Who asks the same meanwhile waits
// for it: many come at once when refs have changed.
func (c *Cache) tell(ctx context.Context, f *Fetch, request []byte) error {
	q := ask(f, request)
	said, err := c.await(ctx, f, q)
	leave := func() {}
	if said == nil && err == nil {
		if leave, err = f.Turn(); err != nil {
			return err
		}
		leave = sync.OnceFunc(leave)
		defer leave()
		said, err = c.await(ctx, f, q) // others may have come first
	}
	if err != nil {
		return err
	}
	if said != nil {
		leave()
		_, err := f.Stdout.Write(said)
		return err
	}
	answer := &held{to: f.Stdout, section: section{limit: maxAnswer}, over: c.asking(f, q)}
	defer answer.over()
	// A client that is slow to take a complaint holds up nobody, either.
	complaints := &notice{}
	err = f.Once(ctx, bytes.NewReader(request), answer, complaints)
	switch {
	case answer.bad:
		c.keep(f, q, nil) // nobody need wait for it again
	case err == nil && answer.whole && !complaints.any: // one that could not read something leaves it out
		c.keep(f, q, answer.said)
	}
	answer.over()
	leave()
	if exit := (*gitexec.ExitError)(nil); errors.As(err, &exit) && exit.Stderr == "" && f.Stderr == nil {
		exit.Stderr = strings.TrimSpace(string(complaints.said))
	}
	if f.Stderr != nil && complaints.any {
		f.Stderr.Write(complaints.said)
	}
	return errors.Join(answer.release(), err)
}

// await returns what is kept of a question, or what somebody who is asking it now will
// have been told. nil: it has to be asked. Who is asking has had their turn, so that who
// waits does not wait in a line that is not theirs.
func (c *Cache) await(ctx context.Context, f *Fetch, q question) ([]byte, error) {
	said, over := c.find(f, q)
	if over == nil {
		return said, nil
	}
	late := time.NewTimer(c.patience)
	defer late.Stop()
	select {
	case <-over:
	case <-late.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	said, _ = c.find(f, q)
	return said, nil
}

// start runs an upload-pack for a client that has been told the list of capabilities, or
// was told nothing, and has sent q and may send more.
func (c *Cache) start(ctx context.Context, f *Fetch, q request, told []byte, more io.Reader) error {
	leave, err := f.Turn()
	if err != nil {
		return err
	}
	defer leave()
	stdin := io.MultiReader(bytes.NewReader(q.raw), more)
	if f.Stateless {
		return f.Run(ctx, stdin, f.Stdout, f.Stderr)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &watch{to: f.Stdout, told: told, fail: cancel, list: &section{limit: maxList}}
	err = f.Run(ctx, stdin, w, f.Stderr)
	if err := c.heard(f, w); err != nil {
		return err
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
	list *section                // what comes first

	changed bool // the list is not the one that was told
	more    bool // something has come after the list
}

func (w *watch) Write(p []byte) (int, error) {
	if w.changed {
		return 0, errChanged
	}
	all, rest := p, p
	if !w.list.whole && !w.list.bad {
		rest = w.list.write(p)
		if w.told != nil {
			if w.list.bad || !bytes.HasPrefix(w.told, w.list.said) || w.list.whole && len(w.list.said) != len(w.told) {
				w.changed = true
				w.fail(errChanged)
				return 0, errChanged
			}
			all = rest
		}
	}
	w.more = w.more || len(rest) > 0
	if len(all) > 0 {
		if _, err := w.to.Write(all); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// held keeps an answer back until it is known to be whole, unless it is longer than what
// may be kept.
type held struct {
	to io.Writer
	section
	over func() // nobody waits for it any more
}

func (h *held) Write(p []byte) (int, error) {
	rest := p
	if !h.bad {
		if rest = h.section.write(p); len(rest) == 0 {
			return len(p), nil
		}
		// Nobody is held up by a client that is slow to take it.
		h.bad = true
		h.over()
		if err := h.flush(); err != nil {
			return 0, err
		}
	}
	if _, err := h.to.Write(rest); err != nil {
		return 0, err
	}
	return len(p), nil
}

// release hands out what was kept back.
func (h *held) release() error {
	if h.bad {
		return nil
	}
	return h.flush()
}

func (h *held) flush() error {
	said := h.said
	h.said = nil
	if len(said) == 0 {
		return nil // an answer begins with its first byte
	}
	_, err := h.to.Write(said)
	return err
}

// A notice keeps the beginning of what a process complains of.
type notice struct {
	any  bool
	said []byte
}

func (n *notice) Write(p []byte) (int, error) {
	n.any = true
	n.said = append(n.said, p[:min(len(p), maxSaid-len(n.said))]...)
	return len(p), nil
}

// maxSaid is how much is kept of what a process complains of.
const maxSaid = 2 << 10
