package repository

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
)

func TestTransactionCommits(t *testing.T) {
	for _, format := range []cluster.ObjectFormat{cluster.SHA1, cluster.SHA256} {
		t.Run(string(format), func(t *testing.T) {
			w := newWorldOf(t, format)
			one := w.commit()
			two := w.commit(one)
			w.receive(two)
			w.change(set("refs/heads/main", "", one), set("refs/heads/gone", format.Zero(), one), set("refs/tags/v1", "", two))
			w.show(map[string]string{"refs/heads/main": string(one), "refs/heads/gone": string(one), "refs/tags/v1": string(two)})
			w.change(set("refs/heads/main", one, two), set("refs/heads/gone", one, ""), set("refs/tags/v1", two, format.Zero()))
			w.show(map[string]string{"refs/heads/main": string(two)})
			if locks := w.locks(); len(locks) > 0 {
				t.Errorf("locks are left: %v", locks)
			}
		})
	}
}

func TestTransactionLocksBetweenPrepareAndCommit(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	two := w.commit(one)
	w.receive(two)
	w.change(set("refs/heads/main", "", one))
	for _, commit := range []bool{false, true} {
		tx, err := w.Begin(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Prepare([]cluster.RefUpdate{set("refs/heads/main", one, two)}); err != nil {
			t.Fatal(err)
		}
		w.show(map[string]string{"refs/heads/main": string(one)})
		if locks := w.locks(); !slices.Contains(locks, "refs/heads/main.lock") {
			t.Errorf("the ref is not locked: %v", locks)
		}
		if err := w.tryChange(t.Context(), set("refs/heads/main", one, two)); err == nil {
			t.Error("a locked ref was changed")
		}
		want := one
		if commit {
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			want = two
		}
		tx.Abort()
		tx.Abort()
		w.show(map[string]string{"refs/heads/main": string(want)})
		if locks := w.locks(); len(locks) > 0 {
			t.Errorf("commit=%v: locks are left: %v", commit, locks)
		}
	}
}

func TestTransactionRefuses(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	two := w.commit(one)
	w.receive(two)
	w.change(set("refs/heads/main", "", one), set("refs/heads/dir/x", "", one))
	before := w.refs()
	missing := cluster.OID(strings.Repeat("1", 40))
	for name, c := range map[string]struct {
		update cluster.RefUpdate
		want   string // in the error
	}{
		"another old value":   {set("refs/heads/main", two, two), "refs/heads/main"},
		"there already":       {set("refs/heads/main", "", two), "refs/heads/main"},
		"gone":                {set("refs/heads/none", one, two), "refs/heads/none"},
		"delete, other value": {set("refs/heads/main", two, ""), "refs/heads/main"},
		"delete what is not":  {set("refs/heads/none", one, ""), "refs/heads/none"},
		"below a ref":         {set("refs/heads/main/x", "", one), "refs/heads/main"},
		"a folder":            {set("refs/heads/dir", "", one), "refs/heads/dir"},
		"object is not here":  {set("refs/heads/new", "", missing), string(missing)},
		"bad name":            {set("refs/heads/..", "", one), "refs/heads/.."},
		"not an object id":    {set("refs/heads/new", "", "--help"), "--help"},
	} {
		t.Run(name, func(t *testing.T) {
			err := w.tryChange(t.Context(), set("refs/tags/good", "", one), c.update)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
			w.show(before)
			if locks := w.locks(); len(locks) > 0 {
				t.Errorf("locks are left: %v", locks)
			}
		})
	}
}

// A name made of what separates commands must not become another command.
func TestTransactionDoesNotTakeANameForACommand(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	w.receive(one)
	w.change(set("refs/heads/main", "", one))
	name := "refs/heads/x\x00" + string(one) + "\x00delete refs/heads/main\x00"
	if err := w.tryChange(t.Context(), set(name, "", one)); err == nil {
		t.Error("a ref name that holds a command was accepted")
	}
	if w.refs()["refs/heads/main"] != string(one) {
		t.Error("a ref name was taken for a command")
	}
}

func TestPrepareAnyIgnoresOldValues(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	two := w.commit(one)
	w.receive(two)
	w.change(set("refs/heads/main", "", one), set("refs/heads/gone", "", one))
	any := func(updates ...cluster.RefUpdate) error {
		tx, err := w.Begin(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Abort()
		if err := tx.PrepareAny(updates); err != nil {
			return err
		}
		return tx.Commit()
	}
	replay := []cluster.RefUpdate{set("refs/heads/main", two, two), set("refs/heads/gone", two, ""), set("refs/heads/new", one, two), set("refs/heads/never", one, "")}
	for range 2 { // doing it again comes to the same
		if err := any(replay...); err != nil {
			t.Fatal(err)
		}
		w.show(map[string]string{"refs/heads/main": string(two), "refs/heads/new": string(two)})
	}
	if err := any(set("refs/heads/main", "", cluster.OID(strings.Repeat("1", 40)))); err == nil {
		t.Error("a value that is not here was accepted")
	}
}

func TestManyRefsInOneTransaction(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	w.receive(one)
	var updates []cluster.RefUpdate
	for i := range 500 {
		updates = append(updates, set(fmt.Sprintf("refs/heads/%s/%d", strings.Repeat("n", 200), i), "", one))
	}
	within(t, "500 refs", func() {
		// One bad among many must not fill a pipe that nobody reads.
		if err := w.tryChange(t.Context(), append(slices.Clone(updates), set("refs/heads/..", "", one))...); err == nil {
			t.Error("a bad name was accepted")
		}
		w.change(updates...)
	})
	if n := len(w.refs()); n != len(updates) {
		t.Errorf("%d refs, want %d", n, len(updates))
	}
}

func TestTransactionEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	w.receive(one)
	ctx, cancel := context.WithCancelCause(t.Context())
	tx, err := w.Begin(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Prepare([]cluster.RefUpdate{set("refs/heads/main", "", one)}); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("the client went away")
	cancel(cause)
	within(t, "commit after the context's end", func() {
		if err := tx.Commit(); err == nil {
			t.Error("committed after the context ended")
		}
		tx.Abort()
	})
	w.show(map[string]string{})
	if locks := w.locks(); len(locks) > 0 {
		t.Errorf("locks are left: %v", locks)
	}
}

// A Git process that is killed leaves its locks; they block everybody until
// RemoveLocks.
func TestRemoveLocksCuresAKilledGit(t *testing.T) {
	for _, packed := range []bool{false, true} {
		t.Run(fmt.Sprintf("packed=%v", packed), func(t *testing.T) {
			w := newWorld(t)
			one := w.commit()
			two := w.commit(one)
			w.receive(two)
			w.change(set("refs/heads/main", "", one), set("refs/heads/deep/er", "", one), set("refs/heads/gone", "", one))
			if packed {
				w.git(w.Dir, "pack-refs", "--all")
			}
			updates := []cluster.RefUpdate{set("refs/heads/main", one, two), set("refs/heads/deep/er", one, two), set("refs/heads/gone", one, "")}
			tx, err := w.Begin(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			if err := tx.Prepare(updates); err != nil {
				t.Fatal(err)
			}
			kill(t, w.Dir)
			within(t, "commit by a dead git", func() {
				if err := tx.Commit(); err == nil {
					t.Error("a dead git committed")
				}
			})
			if locks := w.locks(); len(locks) < 3 {
				t.Fatalf("a killed git left only the locks %v: the test proves nothing", locks)
			}
			if err := w.tryChange(t.Context(), updates...); err == nil {
				t.Fatal("stale locks do not block: the test proves nothing")
			}
			if err := w.RemoveLocks(); err != nil {
				t.Fatal(err)
			}
			if err := w.tryChange(t.Context(), updates...); err != nil {
				t.Errorf("after RemoveLocks: %v (left: %v)", err, w.locks())
			}
			w.show(map[string]string{"refs/heads/main": string(two), "refs/heads/deep/er": string(two)})
		})
	}
}

func TestRemoveLocksLeavesRefsAlone(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	w.receive(one)
	w.change(set("refs/heads/unlock", "", one), set("refs/heads/lock", "", one))
	for _, f := range []string{"HEAD.lock", "packed-refs.lock", "config.lock", "refs/heads/unlock.lock", "refs/x/y.lock"} {
		path := filepath.Join(w.Dir, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := w.RemoveLocks(); err != nil {
			t.Fatal(err)
		}
	}
	if locks := w.locks(); len(locks) > 0 {
		t.Errorf("left: %v", locks)
	}
	w.show(map[string]string{"refs/heads/unlock": string(one), "refs/heads/lock": string(one)})
}

// kill ends the one update-ref that works on the repository at dir.
func kill(t *testing.T, dir string) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil || len(procs) == 0 {
		t.Skip("there is no /proc to find the process in")
	}
	for _, path := range procs {
		env, err := os.ReadFile(path)
		if err != nil || !slices.Contains(strings.Split(string(env), "\x00"), "GIT_DIR="+dir) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		process, err := os.FindProcess(pid)
		if err == nil {
			err = process.Kill()
		}
		if err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(time.Minute)
		for !ended(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d is still there a minute after it was killed", pid)
			}
			<-time.After(time.Millisecond)
		}
		return
	}
	t.Fatalf("no git process works on %s", dir)
}

// ended reports whether the process is gone or waits only to be reaped.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}
