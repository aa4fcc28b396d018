package repository

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// A Transaction changes refs in two steps, by `git update-ref --stdin`: between
// Prepare and Commit the refs are locked and known to have their old values.
type Transaction struct {
	wait   <-chan struct{} // closed when Git is gone
	in     *bufio.Writer
	closer io.Closer
	out    *bufio.Reader
	stderr strings.Builder
	ctx    context.Context
	cancel context.CancelFunc
	ended  bool
	bulk   string // the folder of a repository whose file system is synced as a whole; "" where Git syncs each ref
}

// manyUpdates is from where on it is faster to sync a file system as a whole than
// each ref by itself.
const manyUpdates = 200

// Begin starts a transaction of about so many updates. The caller must end it with
// Commit or Abort.
func (r *Repository) Begin(ctx context.Context, size int) (*Transaction, error) {
	bulk := ""
	if size >= manyUpdates && canSyncFS() {
		bulk = r.Dir
	}
	ctx, cancel := context.WithCancel(ctx)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	t := &Transaction{in: bufio.NewWriterSize(inW, 64<<10), closer: inW, out: bufio.NewReader(outR), ctx: ctx, cancel: cancel, bulk: bulk}
	proc, err := r.run.Start(ctx, gitcmd.UpdateRef(r.Dir, bulk == ""), gitexec.IO{Stdin: inR, Stdout: outW, Stderr: &limited{w: &t.stderr, n: 4096}})
	if err != nil {
		cancel()
		return nil, err
	}
	waited := make(chan struct{})
	t.wait = waited
	go func() {
		defer close(waited)
		err := proc.Wait()
		// Whoever waits for an answer or still writes commands is told that
		// none will be read.
		inR.CloseWithError(fmt.Errorf("git update-ref ended: %w", orEOF(err)))
		outW.CloseWithError(orEOF(err))
	}()
	return t, nil
}

// Prepare locks the refs and checks their old values and the new objects. If
// it fails, no ref is locked and the transaction is over.
func (t *Transaction) Prepare(updates []cluster.RefUpdate) error {
	return t.prepare(updates, func(u cluster.RefUpdate) string {
		switch {
		case u.New.IsZero():
			return "delete " + string(u.Ref) + "\x00" + string(u.Old) + "\x00"
		case u.Old.IsZero():
			return "create " + string(u.Ref) + "\x00" + string(u.New) + "\x00"
		}
		return "update " + string(u.Ref) + "\x00" + string(u.New) + "\x00" + string(u.Old) + "\x00"
	})
}

// PrepareAny is Prepare without regard to the old values, for a replay.
func (t *Transaction) PrepareAny(updates []cluster.RefUpdate) error {
	return t.prepare(updates, func(u cluster.RefUpdate) string {
		if u.New.IsZero() {
			return "delete " + string(u.Ref) + "\x00\x00"
		}
		return "update " + string(u.Ref) + "\x00" + string(u.New) + "\x00\x00"
	})
}

// Commit writes the new values and ends the transaction.
func (t *Transaction) Commit() error {
	err := t.step("commit")
	t.end()
	return err
}

// Abort unlocks the refs and ends the transaction; after Commit it does nothing.
func (t *Transaction) Abort() {
	if !t.ended {
		t.step("abort")
		t.end()
	}
}

func (t *Transaction) prepare(updates []cluster.RefUpdate, line func(cluster.RefUpdate) string) error {
	err := t.step("start")
	for _, u := range updates {
		if err != nil {
			break
		}
		_, err = t.in.WriteString(line(u))
	}
	if err == nil {
		err = t.step("prepare")
	}
	if err == nil && t.bulk != "" {
		// The new values are in the lock files, which are renamed later.
		err = syncFS(t.bulk)
	}
	if err != nil {
		t.end()
		if why := strings.TrimSpace(t.stderr.String()); why != "" {
			return fmt.Errorf("prepare refs: %s", strings.TrimPrefix(why, "fatal: "))
		}
		return fmt.Errorf("prepare refs: %w", err)
	}
	return nil
}

// step sends one command and waits until Git confirms it.
func (t *Transaction) step(name string) error {
	if cause := context.Cause(t.ctx); cause != nil {
		return cause // Git is being ended; whether it would still obey is a matter of luck
	}
	if _, err := t.in.WriteString(name + "\x00"); err != nil {
		return err
	}
	if err := t.in.Flush(); err != nil {
		return err
	}
	answer, err := t.out.ReadString('\n')
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if answer != name+": ok\n" {
		return fmt.Errorf("%s: unexpected answer %q", name, answer)
	}
	return nil
}

// end closes Git's input, at which it exits and drops any locks, and reaps it.
func (t *Transaction) end() {
	if t.ended {
		return
	}
	t.ended = true
	t.closer.Close()
	<-t.wait
	t.cancel()
}

func orEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// limited drops what goes past its first n bytes.
type limited struct {
	w io.Writer
	n int
}

func (l *limited) Write(p []byte) (int, error) {
	keep := p[:min(len(p), l.n)]
	l.n -= len(keep)
	if _, err := l.w.Write(keep); err != nil {
		return 0, err
	}
	return len(p), nil
}
