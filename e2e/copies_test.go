package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// okLine is what Git traces when it reads that a ref was accepted.
var okLine = regexp.MustCompile(` packet: +push< ok refs/`)

// TestPushOutlivesItsDisk takes away the node that takes pushes, with its data
// directory, in the moment a client reads "ok", while others push to branches of their
// own: every push whose "ok" was read is on the other nodes, and reads and writes go on.
func TestPushOutlivesItsDisk(t *testing.T) {
	const clients, oks = 4, 6
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	u.Commit(t, work, "f", "zero")
	u.Via("node2").Git(t, work, "push", "-q", "cluster::outlive/a", "main")
	checkEverywhere(t, c, "outlive/a", nil)
	lost := c.Node(t, "node1")
	// What is done after the loss, done before it.
	start := time.Now()
	for _, name := range []string{"node2", "node3"} {
		lsRemote(t, u, name, "outlive/a")
	}
	u.Commit(t, work, "f", "one")
	u.Via("node3").Git(t, work, "push", "-q", "cluster::outlive/a", "main")
	usual := time.Since(start)
	var (
		mu      sync.Mutex
		read    int
		gone    time.Time
		acked   = map[string]string{}
		pending = map[string]string{} // whose end the client did not hear of
		ended   = make(chan struct{})
		all     sync.WaitGroup
	)
	ok := func(ref string) {
		mu.Lock()
		defer mu.Unlock()
		acked[ref], pending[ref] = pending[ref], ""
		if read++; read == oks {
			lost.Kill()
			gone = time.Now()
			close(ended)
		}
	}
	for i := range clients {
		ref, dir := fmt.Sprintf("refs/heads/of/%d", i), newWork(t, u)
		all.Go(func() {
			for n := 0; ; n++ {
				head := u.Commit(t, dir, "f", fmt.Sprint(i, n))
				mu.Lock()
				if read >= oks {
					mu.Unlock()
					return
				}
				pending[ref] = head
				mu.Unlock()
				heard := false
				r := u.With("GIT_TRACE_PACKET=2").Follow(t.Context(), dir, "", func(line string) bool {
					if !heard && okLine.MatchString(line) {
						heard = true
						ok(ref)
					}
					return !strings.Contains(line, " packet: ")
				}, "git", "push", "ssh://node1/outlive/a", "HEAD:"+ref)
				// The node is killed, and "ended" closed, by who holds this: a push that
				// failed for it comes here after that.
				mu.Lock()
				over := read >= oks
				mu.Unlock()
				if over {
					return
				}
				if err := r.Err(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	select {
	case <-ended:
	case <-time.After(2 * time.Minute):
		t.Fatalf("after two minutes %d pushes were accepted", read)
	}
	if err := os.RemoveAll(lost.Data); err != nil {
		t.Fatal(err)
	}
	shown := map[string]map[string]string{}
	for _, name := range []string{"node2", "node3"} {
		shown[name] = lsRemote(t, u, name, "outlive/a")
	}
	u.Commit(t, work, "f", "two")
	u.Via("node3").Git(t, work, "push", "-q", "cluster::outlive/a", "main")
	took := time.Since(gone)
	t.Logf("reads and a push took %v after the node was gone, %v before", took, usual)
	if took > within(5*time.Second, usual) {
		t.Errorf("reads and a push took %v after the node was gone, %v before", took, usual)
	}
	all.Wait()
	for name, refs := range shown {
		for ref, value := range acked {
			if got := refs[ref]; got != value && (got == "" || got != pending[ref]) {
				t.Errorf("%s shows %s at %q, acknowledged was %s", name, ref, got, value)
			}
		}
		u.Via(name).Git(t, "", "clone", "-q", "cluster::outlive/a", t.TempDir()+"/clone")
	}
}

// TestTooFewCopies has a cluster of two whose second node is gone: a push is
// refused in words, or accepted with a warning where the repository says so.
func TestTooFewCopies(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 2)
	u := c.Admin.Via("node1")
	work := newWork(t, u)
	first := u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "cluster::few/a", "main")
	if view := c.Show(t, "few/a"); view.Copies != 0 {
		t.Errorf("copies are %d by default", view.Copies)
	}
	c.Node(t, "node2").Kill()
	head := u.Commit(t, work, "f", "two")
	said := u.Run(work, "git", "push", "cluster::few/a", "main").Refused(t)
	for _, want := range []string{"not enough replicas hold this push: 1 of 2", "node2", "--when-degraded warn"} {
		if !strings.Contains(said, want) {
			t.Errorf("the refusal does not say %q:\n%s", want, said)
		}
	}
	if got := lsRemote(t, u, "node1", "few/a")["refs/heads/main"]; got != first {
		t.Errorf("after the refusal main is at %q, was at %s", got, first)
	}
	u.Must(t, "", "git-cluster", "repo", "set", "few/a", "--when-degraded", "warn", "--data", c.Nodes[0].Data)
	r := u.Run(work, "git", "push", "cluster::few/a", "main")
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.Stderr, "# Warning: not enough replicas hold this push: 1 of 2") {
		t.Errorf("accepted on one disk without a warning:\n%s", r.Stderr)
	}
	if err := c.Node(t, "node2").Start(); err != nil {
		t.Fatal(err)
	}
	checkEverywhere(t, c, "few/a", map[string]string{"refs/heads/main": head})
	u.Must(t, "", "git-cluster", "repo", "set", "few/a", "--copies", "1", "--data", c.Nodes[0].Data)
	c.Node(t, "node2").Kill()
	u.Commit(t, work, "f", "three")
	if r := u.Run(work, "git", "push", "cluster::few/a", "main"); r.Err() != nil || strings.Contains(r.Stderr, "Warning") {
		t.Errorf("one copy was asked for: %v\n%s", r.Err(), r.Stderr)
	}
}
