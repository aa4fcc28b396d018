package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"gitcluster/e2e/faults/failpoint"
	"gitcluster/internal/clustertest"
)

// Schedules in which one thing goes wrong at one point, which a random run may take
// long to meet.

// TestProcessOfAPushIsKilled ends one process below the node alone, after a push has
// become real and before the client has heard of it. The client may hear "ok" or
// nothing, and the push is there.
func TestProcessOfAPushIsKilled(t *testing.T) {
	r := schedule(t)
	n := r.cluster.Nodes[0]
	for _, c := range []struct {
		program string
		signed  bool // so that it is Git's own receive-pack that serves the push
		heard   outcome
	}{
		{"update-ref", false, done}, // its work is done again from the journal
		{"proc-receive", true, unknown},
		{"receive-pack", true, unknown},
	} {
		t.Run(c.program, func(t *testing.T) {
			k, ref := r.someone(t, c.program)
			if c.signed {
				for key, value := range map[string]string{"gpg.format": "ssh", "user.signingKey": k.user.PublicKey(), "push.gpgSign": "true"} {
					k.user.Git(t, k.work[r.repos[0]], "config", key, value)
				}
			}
			head := k.make(t, "")
			arm(t, n, "appended", failpoint.Stop)
			pushed := make(chan operation)
			go func() { pushed <- k.pushOnce(ref, "", head, "ssh://"+n.Name+"/"+r.repos[0]) }()
			awaitPoint(t, n)
			kill(t, n, c.program)
			if err := n.Resume(); err != nil {
				t.Fatal(err)
			}
			if o := <-pushed; o.Changes[0].Outcome != c.heard {
				t.Errorf("the client heard %q (%s), want %q\n%s", o.Changes[0].Outcome, o.Changes[0].Why, c.heard, o.Said)
			}
			for _, n := range r.cluster.Nodes {
				// A node may refuse while it is behind on a busy machine; what it shows is right.
				clustertest.Await(t, time.Minute, func() string {
					got := k.user.Run("", "git", "ls-remote", "ssh://"+n.Name+"/"+r.repos[0], ref)
					if got.Status == 0 && !strings.HasPrefix(got.Stdout, head) {
						t.Errorf("%s shows %q, want %s", n.Name, got.Stdout, head)
					}
					if got.Err() != nil {
						return got.Err().Error()
					}
					return ""
				})
			}
			r.mustBeSound(t)
		})
	}
}

// TestNegotiationWithWhatIsLeft pushes on top of a commit that the node has from a
// push which came to nothing, and the others have not: the client finds that out and
// leaves it out of its pack.
func TestNegotiationWithWhatIsLeft(t *testing.T) {
	r := schedule(t)
	n := r.cluster.Nodes[0]
	k, ref := r.someone(t, "negotiate")
	first := k.make(t, "")
	arm(t, n, "prepared", failpoint.Kill)
	address := "ssh://" + n.Name + "/" + r.repos[0]
	if o := k.pushOnce(ref, "", first, address); o.Changes[0].Outcome != unknown {
		t.Fatalf("a push through a node that was killed: %q\n%s", o.Changes[0].Outcome, o.Said)
	}
	n.Kill()
	if err := start(n); err != nil {
		t.Fatal(err)
	}
	if got := k.user.Git(t, "", "ls-remote", address, ref); got != "" {
		t.Fatalf("the failed push is there: %s", got)
	}
	second := k.make(t, first)
	count := func(args ...string) string {
		p := k.user.Run(k.work[r.repos[0]], append([]string{"git", "-c", "push.negotiate=true", "push", "--progress", address}, args...)...)
		if err := p.Err(); err != nil {
			t.Fatal(err)
		}
		return p.Stderr
	}
	if said := count(second + ":" + ref); !strings.Contains(said, "Writing objects: 100% (3/3)") {
		t.Errorf("nothing was left out of the pack:\n%s", said)
	}
	r.mustBeSound(t)
	for _, n := range r.cluster.Nodes {
		k.user.Git(t, "", "clone", "-q", "--bare", "ssh://"+n.Name+"/"+r.repos[0], filepath.Join(t.TempDir(), n.Name))
	}
}

// TestCutFromTheJournalAlone has a node whose journal server hears nothing of the
// others, while the node itself does: it serves nobody, and it holds copies.
func TestCutFromTheJournalAlone(t *testing.T) {
	r := schedule(t)
	k, ref := r.someone(t, "main")
	cut, heal := r.severing(t, "cut journal")
	cut()
	head := k.make(t, "")
	o := k.pushOnce(ref, "", head, "ssh://node2/"+r.repos[0])
	// The server that is cut off may have been the journal's leader.
	for deadline := time.Now().Add(30 * time.Second); o.Changes[0].Outcome != done && strings.Contains(o.Said, "did not confirm within") && time.Now().Before(deadline); {
		o = k.pushOnce(ref, "", head, "ssh://node2/"+r.repos[0])
	}
	if o.Changes[0].Outcome != done {
		t.Fatalf("a push through another node: %s\n%s", o.Changes[0].Outcome, o.Said)
	}
	if got := k.user.Run("", "git", "ls-remote", "ssh://node1/"+r.repos[0]); !strings.Contains(got.Stderr, "the journal did not confirm") {
		t.Errorf("a read without the journal: %v, %s", got.Err(), got.Stdout)
	}
	clustertest.Await(t, 20*time.Second, func() string { // two others are enough for the answer
		if !r.holds(t, r.cluster.Nodes[0], head) {
			return "the node took no copy, though the others reach it"
		}
		return ""
	})
	heal()
	r.mustShow(t, k, ref, head)
	r.mustBeSound(t)
}

// TestCutFromThePeersAlone has a node that hears of pushes and cannot fetch their
// objects: it serves nobody what it had before.
func TestCutFromThePeersAlone(t *testing.T) {
	r := schedule(t)
	k, ref := r.someone(t, "main")
	first := k.make(t, "")
	if o := k.pushOnce(ref, "", first, "ssh://node2/"+r.repos[0]); o.Changes[0].Outcome != done {
		t.Fatal(o.Said)
	}
	r.mustShow(t, k, ref, first)
	cut, heal := r.severing(t, "cut peers")
	cut()
	head := k.make(t, first)
	if o := k.pushOnce(ref, first, head, "ssh://node2/"+r.repos[0]); o.Changes[0].Outcome != done {
		t.Fatalf("a push through another node: %s\n%s", o.Changes[0].Outcome, o.Said)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if got := k.user.RunContext(ctx, "", "", "git", "ls-remote", "ssh://node1/"+r.repos[0]); got.Status == 0 {
		t.Errorf("a read without the objects: %s", got.Stdout)
	}
	heal()
	r.mustShow(t, k, ref, head)
	r.mustBeSound(t)
}

// TestPowerLossAfterOK takes the power of all nodes in the moment a client reads "ok",
// and with it all that they have not synced: names that are only in a directory, and
// contents that are only in a name. The push is whole on a majority of the disks, and
// everybody shows it.
func TestPowerLossAfterOK(t *testing.T) {
	r := schedule(t)
	if r.states == nil {
		t.Skip("there is no compiler for C")
	}
	k, main := r.someone(t, "main")
	dir, below := "refs/heads/dir", "refs/heads/dir/below"
	one := k.make(t, "")
	two, three := k.make(t, one), k.make(t, one)
	for i, step := range []struct{ ref, was, value string }{
		{main, "", one}, {below, "", two}, {main, one, three}, {below, two, ""}, {dir, "", two}, {main, three, two},
	} {
		o := operation{Kind: "push", Repo: r.repos[0], Changes: []change{{Ref: step.ref, Was: step.was, WasKnown: true, Value: step.value}}}
		cut := false
		k.git(&o, operationLimit, k.work[o.Repo], func(line string) bool {
			if !cut && okLine.MatchString(line) {
				cut = true
				for _, n := range r.cluster.Nodes {
					n.Kill()
				}
			}
			return !strings.Contains(line, " packet: ")
		}, "push", "ssh://"+r.cluster.Nodes[i%3].Name+"/"+o.Repo, "+"+step.value+":"+step.ref)
		if !cut {
			t.Fatalf("%v: there was no ok:\n%s", step, o.Said)
		}
		for _, n := range r.cluster.Nodes {
			if err := r.injector().losePower(fault{choice: uint64(i)}, n); err != nil {
				t.Fatal(err)
			}
		}
		if on := r.whole(o.Repo, []string{step.value}); step.value != "" && len(on[step.value]) < 2 {
			t.Errorf("%v: after the power loss it is whole on the disks of %v", step, on[step.value])
		}
		for _, n := range r.cluster.Nodes {
			if err := n.Launch(); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range r.cluster.Nodes {
			if err := n.AwaitReady(startLimit); err != nil {
				t.Fatal(err)
			}
		}
		r.mustShow(t, k, step.ref, step.value)
	}
	r.mustBeSound(t)
}

// TestPowerLossAfterUnlock takes the power of a node when what an operator has made by
// hand there is an entry that counts its disk: objects as Git writes them for anybody, and
// refs as an editor does, none of them synced.
func TestPowerLossAfterUnlock(t *testing.T) {
	r := schedule(t)
	if r.states == nil {
		t.Skip("there is no compiler for C")
	}
	k, main := r.someone(t, "main")
	repo, n := r.repos[0], r.cluster.Nodes[1]
	first := k.make(t, "")
	if o := k.pushOnce(main, "", first, "ssh://node1/"+repo); o.Outcome != done {
		t.Fatalf("%s\n%s", o.Outcome, o.Said)
	}
	r.mustShow(t, k, main, first)
	dir := strings.TrimSpace(k.user.Must(t, "", "git-cluster", "lock", repo, "--data", n.Data))
	made := k.make(t, first)
	if err := r.bare(dir, "-c", "fetch.unpackLimit=1000", "-c", "protocol.file.allow=always", "fetch", "-q", k.work[repo], made).Err(); err != nil {
		t.Fatal(err)
	}
	const deep = "refs/heads/by/hand"
	for _, ref := range []string{main, deep} {
		path := filepath.Join(dir, ref)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(made+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k.user.Must(t, "", "git-cluster", "unlock", repo, "--data", n.Data)
	n.Kill()
	if err := r.injector().losePower(fault{}, n); err != nil {
		t.Fatal(err)
	}
	if len(r.wholeOn(n, repo, []string{made})) == 0 {
		t.Errorf("%s was counted, and has lost what was made by hand", n.Name)
	}
	for _, ref := range []string{main, deep} {
		if got := r.bare(dir, "rev-parse", ref); strings.TrimSpace(got.Stdout) != made {
			t.Errorf("%s on its disk is %q: %s", ref, got.Stdout, got.Stderr)
		}
	}
	if err := start(n); err != nil {
		t.Fatal(err)
	}
	r.mustShow(t, k, main, made)
	r.mustShow(t, k, deep, made)
	r.mustBeSound(t)
}

// TestOlderThanTheJournal has a node away for longer than the journal keeps entries,
// large ones among them: it compares itself with a peer.
func TestOlderThanTheJournal(t *testing.T) {
	r := schedule(t)
	k, main := r.someone(t, "main")
	push := func(ref, was, value string) {
		t.Helper()
		o := operation{Kind: "push", Changes: []change{{Ref: ref, Was: was, WasKnown: true, Value: value}}}
		args := []string{"push", "--porcelain", "--atomic", "ssh://node1/" + r.repos[0]}
		for _, ref := range unfold(ref) {
			args = append(args, "+"+value+":"+ref)
		}
		k.judge(&o, k.git(&o, 3*operationLimit, k.work[r.repos[0]], nil, args...)) // it is a great many refs
		if o.Outcome != done {
			t.Fatalf("%s: %s\n%s", ref, o.Outcome, o.Said)
		}
	}
	first := k.make(t, "")
	push(main, "", first)
	push(someRefs, "", first)
	r.mustShow(t, k, main, first)
	away := r.cluster.Nodes[2]
	away.Kill()
	last := k.make(t, first)
	push(manyRefs, "", last)
	push(someRefs, first, last)
	for range 25 { // 24 are kept, and a few more before the first are trimmed
		next := k.make(t, last)
		push(main, last, next)
		last = next
	}
	push(someRefs, first, "")
	if err := start(away); err != nil {
		t.Fatal(err)
	}
	r.mustShow(t, k, main, last)
	if !strings.Contains(away.Log(), "and the journal begins at") {
		t.Error("the journal was not trimmed")
	}
	r.mustBeSound(t)
}

// severing returns what makes a fault of the network happen to the first node, and
// what heals it.
func (r *run) severing(t *testing.T, kind string) (cut, heal func()) {
	t.Helper()
	if noLinks != nil {
		t.Skip(noLinks)
	}
	i := &injector{cluster: r.cluster, links: r.links}
	pairs, nets := i.severed(fault{kind: kind})
	all := func(change func(from, to string, in ...clustertest.Net) error) func() {
		return func() {
			for _, p := range pairs {
				if err := change(p[0], p[1], nets...); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return all(r.links.Cut), all(r.links.Heal)
}

// holds reports whether a node's disk has a value with all it reaches.
func (r *run) holds(t *testing.T, n *clustertest.Node, value string) bool {
	t.Helper()
	dir, err := r.dir(n, r.repos[0])
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	return r.bare(dir, "rev-list", "--objects", "--quiet", value).Status == 0
}

// mustShow waits until every node shows a value.
func (r *run) mustShow(t *testing.T, k *client, ref, value string) {
	t.Helper()
	for _, n := range r.cluster.Nodes {
		clustertest.Await(t, time.Minute, func() string {
			got := k.user.Run("", "git", "ls-remote", "ssh://"+n.Name+"/"+r.repos[0], ref)
			if got.Status == 0 && strings.HasPrefix(got.Stdout, value) && (value != "" || got.Stdout == "") {
				return ""
			}
			return fmt.Sprintf("%s shows %q, want %s: %s", n.Name, got.Stdout, value, got.Stderr)
		})
	}
}

// schedule is a cluster in which nothing goes wrong by itself.
func schedule(t *testing.T) *run {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the processes below a node are found in /proc")
	}
	r := &run{Settings: Settings{Repos: 1, Plan: usual, Bin: programs(t, nil), Dir: t.TempDir(), Settle: time.Minute, Links: noLinks == nil, Deep: isDeep},
		history: &history{start: time.Now(), log: io.Discard}, clients: t.Context()}
	t.Cleanup(func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	})
	if err := r.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	go r.recorder.follow(t.Context(), r.repos)
	return r
}

// someone is a client of its own and a ref for it.
func (r *run) someone(t *testing.T, name string) (*client, string) {
	t.Helper()
	k, err := newClient(r, 0, r.cluster.Admin, "")
	if err != nil {
		t.Fatal(err)
	}
	return k, "refs/heads/" + name
}

func (k *client) make(t *testing.T, parent string) string {
	t.Helper()
	k.done++
	for repo := range k.work {
		oid, err := k.commit(repo, parent, 100, k.random)
		if err != nil {
			t.Fatal(err)
		}
		return oid
	}
	panic("a client without a repository")
}

func (k *client) pushOnce(ref, was, value, address string) operation {
	o := operation{Kind: "push", Address: address, Changes: []change{{Ref: ref, Was: was, WasKnown: true, Value: value}}}
	for _, dir := range k.work {
		k.judge(&o, k.git(&o, operationLimit, dir, nil, "push", "--porcelain", address, value+":"+ref))
	}
	return o
}

// mustBeSound waits until all disks are the same, and looks at them.
func (r *run) mustBeSound(t *testing.T) {
	t.Helper()
	r.settle(context.Background())
	for _, repo := range r.repos {
		r.checkDisks(repo)
	}
	for _, a := range r.history.anomalies {
		t.Error(a)
	}
	r.history.anomalies = nil
}

func arm(t *testing.T, n *clustertest.Node, point, action string) {
	t.Helper()
	if err := failpoint.Arm(armed(n), point, action); err != nil {
		t.Fatal(err)
	}
}

// awaitPoint waits until the node has come to the point it is armed for and stands
// still there.
func awaitPoint(t *testing.T, n *clustertest.Node) {
	t.Helper()
	clustertest.Await(t, time.Minute, func() string {
		if _, err := os.Stat(armed(n)); !errors.Is(err, fs.ErrNotExist) {
			return n.Name + " has not come to the point"
		}
		if s, _ := state(n.PID()); s != "T" {
			return fmt.Sprintf("%s is in state %s", n.Name, s)
		}
		return ""
	})
}

// kill ends the one process below the node whose command has the word, and waits
// until it is gone, and its parent too if that is not the node: receive-pack says
// what it has to say and ends.
func kill(t *testing.T, n *clustertest.Node, word string) {
	t.Helper()
	for _, pid := range descendants(n.PID()) {
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !strings.Contains(string(command), word) {
			continue
		}
		_, parent := state(pid)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		clustertest.Await(t, time.Minute, func() string {
			for _, p := range []int{pid, parent} {
				if s, _ := state(p); p != n.PID() && s != "" && s != "Z" {
					return fmt.Sprintf("process %d is in state %s", p, s)
				}
			}
			return ""
		})
		return
	}
	t.Fatalf("%s has started no %s", n.Name, word)
}
