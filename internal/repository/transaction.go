package repository

import (
	"context"
	"fmt"
	"io"
	"strings"

	"gitcluster/internal/cluster"
)

// A Transaction changes refs in two steps, by `git update-ref --stdin`: between
// Prepare and Commit the refs are locked and known to have their old values.
type Transaction struct {
	*refWriter
	store  *Store
	ctx    context.Context
	ignore func() bool // has ctx no longer end the process; false: it has
	ended  bool
	bulk   string // the folder of a repository whose file system is synced as a whole; "" where Git syncs each ref
}

// manyUpdates is from where on it is faster to sync a file system as a whole than
// each ref by itself.
const manyUpdates = 200

// Begin starts a transaction of about so many updates. The caller must end it with
// Commit or Abort.
func (r *Repository) Begin(ctx context.Context, size int) (*Transaction, error) {
	t := &Transaction{store: r.store, ctx: ctx}
	if size >= manyUpdates && canSyncFS() {
		t.bulk = r.Dir
	} else {
		t.refWriter = r.store.writers.take(r.Dir)
	}
	if t.refWriter == nil {
		var err error
		if t.refWriter, err = startRefWriter(ctx, r.run, r.Dir, t.bulk == ""); err != nil {
			return nil, err
		}
	}
	t.ignore = context.AfterFunc(ctx, t.cancel)
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
	t.end(err == nil)
	return err
}

// Abort unlocks the refs and ends the transaction; after Commit it does nothing.
func (t *Transaction) Abort() {
	if !t.ended {
		t.end(t.step("abort") == nil)
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
		t.end(false)
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

// end lets go of the process: it is kept if it may serve another transaction.
func (t *Transaction) end(well bool) {
	if t.ended {
		return
	}
	t.ended = true
	if t.ignore() && well && t.bulk == "" {
		t.store.writers.keep(t.refWriter)
		return
	}
	t.close()
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
