package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gitcluster/e2e/faults/disk"
	"gitcluster/internal/clustertest"
)

// TestClockJumps sets the clock of a node forward and back while it serves, takes
// copies and looks after its replicas: nobody notices.
func TestClockJumps(t *testing.T) {
	clustertest.NeedLong(t) // everything is compiled anew
	r := schedule(t)
	n := r.cluster.Nodes[0]
	k, ref := r.someone(t, "main")
	last := ""
	for choice := range uint64(4) {
		off := fault{choice: choice}.jumps()
		if err := setClock(n, off); err != nil {
			t.Fatal(err)
		}
		for _, through := range []string{"node1", "node2"} {
			next := k.make(t, last)
			if o := k.pushOnce(ref, last, next, "ssh://"+through+"/"+r.repos[0]); o.Changes[0].Outcome != done {
				t.Fatalf("%v: a push through %s: %s\n%s", off, through, o.Changes[0].Outcome, o.Said)
			}
			last = next
			r.mustShow(t, k, ref, last)
		}
		if ahead := time.Until(lastLine(t, n)); (ahead - off).Abs() > time.Minute {
			t.Errorf("the node's clock is ahead by %v, want %v", ahead, off)
		}
		if err := k.user.Run("", "git-cluster", "maintain", r.repos[0], "--full", "--data", n.Data).Err(); err != nil {
			t.Errorf("%v: %v", off, err)
		}
	}
	if err := setClock(n, 0); err != nil {
		t.Fatal(err)
	}
	r.mustBeSound(t)
}

// TestClockJumpsDuringAnUpload has housekeeping meet an upload that looks a day old. The
// push may be refused for that; then it is nowhere.
func TestClockJumpsDuringAnUpload(t *testing.T) {
	clustertest.NeedLong(t) // everything is compiled anew
	r := schedule(t)
	if r.states == nil {
		t.Skip("there is no compiler for C")
	}
	n := r.cluster.Nodes[0]
	k, ref := r.someone(t, "main")
	address := "ssh://" + n.Name + "/" + r.repos[0]
	first := k.make(t, "")
	if o := k.pushOnce(ref, "", first, address); o.Changes[0].Outcome != done {
		t.Fatal(o.Said)
	}
	if err := disk.Slow(r.states[n.Name], 600*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	next := k.make(t, first)
	pushed := make(chan operation)
	go func() { pushed <- k.pushOnce(ref, first, next, address) }()
	dir, err := r.dir(n, r.repos[0])
	if err != nil {
		t.Fatal(err)
	}
	clustertest.Await(t, 20*time.Second, func() string {
		found, err := filepath.Glob(filepath.Join(dir, "objects", "tmp_objdir-incoming-*", "pack", "tmp_pack_*"))
		if len(found) == 0 {
			return fmt.Sprint("no upload is under way: ", err)
		}
		return ""
	})
	if err := setClock(n, 25*time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := k.user.Run("", "git-cluster", "maintain", r.repos[0], "--full", "--data", n.Data).Err(); err != nil {
		t.Error(err)
	}
	switch o := <-pushed; o.Changes[0].Outcome {
	case refused:
		t.Logf("the push was refused: %s", o.Said)
		next = first
	case unknown:
		t.Fatalf("nobody knows what became of the push: %s", o.Said)
	}
	if err := setClock(n, 0); err != nil {
		t.Fatal(err)
	}
	if err := disk.Slow(r.states[n.Name], 0); err != nil {
		t.Fatal(err)
	}
	r.mustShow(t, k, ref, next)
	r.mustBeSound(t)
}

// lastLine is the time of the last line that a node has logged.
func lastLine(t *testing.T, n *clustertest.Node) time.Time {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(n.Log()), "\n")
	found := regexp.MustCompile(`^time=(\S+)`).FindStringSubmatch(lines[len(lines)-1])
	if found == nil {
		t.Fatalf("no time in %q", lines[len(lines)-1])
	}
	at, err := time.Parse(time.RFC3339Nano, found[1])
	if err != nil {
		t.Fatal(err)
	}
	return at
}
