package e2e

import (
	"context"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
	"gitcluster/internal/journal"
)

// TestJoinThenStart joins two machines before either is started, as an operator
// with several terminals does, and starts them in the other order.
func TestJoinThenStart(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 1)
	u, seed := c.Admin, c.Nodes[0]
	work := newWork(t, u)
	u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "cluster::join/a", "main")
	var joined []*clustertest.Node
	for _, name := range []string{"second", "third"} {
		n, err := c.NewNode(name)
		if err != nil {
			t.Fatal(err)
		}
		token := u.Must(t, "", "git-cluster", "token", "create", "--data", seed.Data)
		if err := u.Run("", n.Settings("join", seed.SSH, "--token", token)...).Err(); err != nil {
			t.Fatal(err)
		}
		joined = append(joined, n)
	}
	// A machine that joined and never came up costs nothing.
	u.Git(t, work, "push", "-q", "cluster::join/a", "main:other")
	for _, i := range []int{1, 0} {
		if err := joined[i].Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(joined[i].Kill)
	}
	clustertest.Await(t, 2*time.Minute, func() string {
		st, err := seed.Status()
		if err != nil {
			return err.Error()
		}
		for _, m := range st.Journal {
			if !m.Voter {
				return m.Name + " does not vote yet"
			}
		}
		if len(st.Journal) != 3 {
			return "the journal has not three servers"
		}
		return ""
	})
	r := u.Run("", "git-cluster", "repo", "show", "join/a", "--data", joined[1].Data)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

// TestGrow adds nodes one by one, more than vote, to a cluster to which somebody pushes
// all the while.
func TestGrow(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 1)
	u := c.Admin
	work, busy := newWork(t, u), newWork(t, u)
	ctx, stop := context.WithCancel(t.Context())
	pushed, done := "", make(chan struct{})
	defer func() { stop(); <-done }()
	go func() {
		defer close(done)
		n := 0
		for ; ctx.Err() == nil; n++ {
			next := u.Commit(t, busy, "f", strconv.Itoa(n))
			push := func() clustertest.Result {
				return u.Via("node1").Run("", "git", "-C", busy, "push", "-q", "cluster::grow/a", "HEAD:busy")
			}
			r := push()
			// On a busy machine a new server of the journal may make the others elect a leader.
			for deadline := time.Now().Add(30 * time.Second); r.Status > 0 && strings.Contains(r.Stderr, "did not confirm within") && time.Now().Before(deadline); {
				t.Logf("once more: %v", r.Err())
				r = push()
			}
			if r.Err() != nil {
				t.Errorf("push %d while the cluster grows: %v", n, r.Err())
				return
			}
			pushed = next
		}
		t.Logf("%d pushes while the cluster grew", n)
	}()
	for i := range 4 {
		head := u.Commit(t, work, "f", string(rune('a'+i)))
		u.Via("node1").Git(t, work, "push", "-q", "cluster::grow/a", "main")
		n, err := c.Grow()
		if err != nil {
			t.Fatal(err)
		}
		if got := lsRemote(t, u, n.Name, "grow/a")["refs/heads/main"]; got != head {
			t.Errorf("%s shows %q, want %s", n.Name, got, head)
		}
		head = u.Commit(t, work, "f", string(rune('A'+i)))
		u.Via(n.Name).Git(t, work, "push", "-q", "cluster::grow/a", "main")
		if i < 3 {
			continue
		}
		stop()
		<-done
		checkEverywhere(t, c, "grow/a", map[string]string{"refs/heads/main": head, "refs/heads/busy": pushed})
	}
}

// TestStartTooLate joins a machine whose server of the journal loses its place before
// it starts. It starts nevertheless, and has one again soon.
func TestStartTooLate(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 1)
	u, seed := c.Admin, c.Nodes[0]
	late, err := c.NewNode("late")
	if err != nil {
		t.Fatal(err)
	}
	token := u.Must(t, "", "git-cluster", "token", "create", "--data", seed.Data)
	if err := u.Run("", late.Settings("join", seed.SSH, "--token", token)...).Err(); err != nil {
		t.Fatal(err)
	}
	st, err := seed.Status()
	if err != nil {
		t.Fatal(err)
	}
	tls := filepath.Join(seed.Data, "tls")
	var servers []string
	for _, m := range st.Journal {
		if m.Client != "" { // it has started
			servers = append(servers, m.Client)
		}
	}
	client, err := journal.Dial(servers, tls)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	// As another try of the same name does, from elsewhere.
	if _, err := journal.NewMembers(client, nil, tls, nil, slog.New(slog.DiscardHandler)).Admit(t.Context(), "late", "127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	if err := late.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(late.Kill)
	clustertest.Await(t, 60*time.Second, func() string {
		st, err := late.Status()
		if err != nil {
			return err.Error()
		}
		for _, m := range st.Journal {
			if m.Name == "late" {
				return ""
			}
		}
		return "it has no server of the journal"
	})
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "ssh://node1/late/a", "main")
	if got := lsRemote(t, u, "node1", "late/a")["refs/heads/main"]; got != head {
		t.Errorf("node1 shows %q", got)
	}
}
