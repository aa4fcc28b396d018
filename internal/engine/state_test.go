package engine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/refcache"
)

// everyRef asks for all refs, as `git ls-remote --symref` does.
const everyRef = "0014command=ls-refs\n0015agent=git/2.39.5\n" + "0001" + "0009peel\n000csymrefs\n" + "0000"

// lists are a client's questions for refs to one node, which may be answered from memory.
type lists struct {
	*node
	kept *refcache.Cache
}

// ask reads the replica as a client does, and reports whether Git was asked for the
// answer.
func (l lists) ask(ctx context.Context) (said string, live bool, err error) {
	v, err := l.read(ctx)
	if err != nil {
		return "", false, err
	}
	return l.askOf(ctx, v)
}

// askOf is ask by who has synchronized before.
func (l lists) askOf(ctx context.Context, v View) (said string, live bool, err error) {
	var out bytes.Buffer
	err = l.kept.Serve(ctx, refcache.Fetch{
		Repo: v.Repo.ID, Position: v.Applied, State: v.State, Now: func() uint64 { return l.State(v.Repo.ID) },
		Stateless: true, Stdin: strings.NewReader(everyRef), Stdout: &out,
		Turn: func() (func(), error) { return func() {}, nil },
		Once: func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
			live = true
			return uploadPack(ctx, v.Dir, stdin, stdout, stderr)
		},
	})
	return out.String(), live, err
}

func uploadPack(ctx context.Context, dir string, stdin io.Reader, stdout, stderr io.Writer) error {
	return (&gitexec.Runner{}).Run(ctx, gitcmd.StatelessUploadPack(dir, refcache.Version2), gitexec.IO{Stdin: stdin, Stdout: stdout, Stderr: stderr})
}

// After every change of refs or HEAD, by whatever way it came, a client is told it; and
// where nothing changes, from memory.
func TestKeptRefsAreCurrent(t *testing.T) {
	w := newWorld(t, "a", "b")
	nodes := []lists{{w.nodes["a"], refcache.New(refcache.Options{})}, {w.nodes["b"], refcache.New(refcache.Options{})}}
	values := w.nodes["a"].history(5)
	shows := map[string]cluster.OID{"refs/heads/main": values[4]}
	names := []string{"refs/heads/main", "refs/heads/t", "refs/heads/t/x", "refs/heads/v", "refs/tags/w"}
	seed := uint64(time.Now().UnixNano())
	t.Logf("the seed is %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	change := func(on *node) string {
		switch random.IntN(6) {
		case 0:
			head := cluster.RefName([]string{"refs/heads/main", "refs/heads/v"}[random.IntN(2)])
			_, err := on.tryPush(Push{Head: head})
			return fmt.Sprint("HEAD ", head, ": ", err)
		case 1:
			if _, err := on.Repair(t.Context(), w.repo.ID); err != nil {
				t.Fatal(err)
			}
			return "a repair"
		case 2:
			v, _ := on.sync()
			if err := on.Lock(t.Context(), w.repo.ID, "tester"); err != nil {
				t.Fatal(err)
			}
			value := values[random.IntN(len(values))]
			w.git(v.Dir, "update-ref", "refs/heads/main", string(value))
			abandon := random.IntN(2) == 0
			if _, err := on.Release(t.Context(), w.repo.ID, operator, abandon); err != nil {
				t.Fatal(err)
			}
			if !abandon {
				shows["refs/heads/main"] = value
			}
			return fmt.Sprint("a hold, abandoned: ", abandon)
		}
		var updates []cluster.RefUpdate
		for _, name := range names[:1+random.IntN(len(names))] {
			value := values[random.IntN(len(values))]
			if random.IntN(3) == 0 {
				value = ""
			}
			updates = append(updates, set(name, shows[name], value))
		}
		got := refused(on.push(Push{Updates: updates}))
		for _, u := range updates {
			if got[string(u.Ref)] == "" {
				shows[string(u.Ref)] = u.New
			}
		}
		return fmt.Sprint("a push of ", updates)
	}
	var fromMemory int
	states := map[uint64]string{}
	for range 24 {
		what := change(nodes[random.IntN(2)].node)
		for _, n := range nodes {
			v, _ := n.sync()
			var want bytes.Buffer
			if err := uploadPack(t.Context(), n.Store.Path(w.repo.ID), strings.NewReader(everyRef), &want, nil); err != nil {
				t.Fatal(err)
			}
			if before, ok := states[v.State]; ok && before != want.String() {
				t.Fatalf("after %s, the refs of %s go by the name that they had as\n%s", what, n.Device, before)
			}
			states[v.State] = want.String()
			for range 3 {
				got, live, err := n.ask(t.Context())
				if err != nil {
					t.Fatalf("after %s: %v", what, err)
				}
				if !live {
					fromMemory++
				}
				if got != want.String() {
					t.Fatalf("after %s, %s tells (live: %v)\n%s, and Git\n%s", what, n.Device, live, got, &want)
				}
			}
		}
	}
	if fromMemory < 24 {
		t.Errorf("of %d answers %d came from memory", 24*2*3, fromMemory)
	}
}

// What a client is told while refs are written is kept for nobody, be it as old as it may:
// who has synchronized before the push asks now.
func TestNothingIsKeptOfRefsThatChange(t *testing.T) {
	w := newWorld(t, "a")
	a := lists{w.nodes["a"], refcache.New(refcache.Options{})}
	one := a.history(1)[0]
	v, _ := a.sync()
	if _, live, err := a.askOf(t.Context(), v); !live || err != nil {
		t.Fatal(live, err)
	}
	if _, live, err := a.askOf(t.Context(), v); live || err != nil {
		t.Fatal(live, err)
	}
	steps := 0
	a.At = func(s Step) {
		steps++
		for range 2 {
			if _, live, err := a.askOf(t.Context(), v); !live || err != nil {
				t.Errorf("at the step %q: told by Git: %v, %v", s, live, err)
			}
		}
	}
	a.accept(set("refs/heads/x", "", one))
	if steps != 4 {
		t.Errorf("%d steps", steps)
	}
	if _, live, err := a.askOf(t.Context(), v); !live || err != nil {
		t.Errorf("after the push: told by Git: %v, %v", live, err)
	}
}

// While others push, what is told from memory is what the refs were all together at one
// moment, and no older than what was acknowledged before the question.
func TestKeptRefsUnderPushes(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.nodes["a"]
	values := a.history(3)
	a.accept(set("refs/heads/t/x", "", values[0]))
	var mu sync.Mutex
	at := map[string]int{} // when the refs were so last
	var acknowledged atomic.Int64
	expect := func(now int, shows map[string]cluster.OID) {
		mu.Lock()
		defer mu.Unlock()
		at[strings.Join(slices.Sorted(func(yield func(string) bool) {
			for name, value := range shows {
				if value != "" && !yield(string(value)+" "+name) {
					return
				}
			}
		}), "\n")] = now
	}
	shows := map[string]cluster.OID{"refs/heads/main": values[2], "refs/heads/t/x": values[0]}
	expect(0, shows)
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var fromMemory, all atomic.Int64
	for _, n := range []lists{{a, refcache.New(refcache.Options{})}, {w.nodes["b"], refcache.New(refcache.Options{})}} {
		for range 2 {
			clients.Go(func() {
				for ctx.Err() == nil {
					since := int(acknowledged.Load())
					said, live, err := n.ask(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					all.Add(1)
					if live {
						continue // Git reads one ref after another
					}
					fromMemory.Add(1)
					var refs []string
					for line := range strings.Lines(said) {
						if fields := strings.Fields(line); len(fields) > 1 && fields[1] != "HEAD" {
							refs = append(refs, fields[0][4:]+" "+fields[1])
						}
					}
					slices.Sort(refs)
					mu.Lock()
					when, ok := at[strings.Join(refs, "\n")]
					mu.Unlock()
					if !ok || when < since {
						t.Errorf("after push %d, %s tells from memory what was at push %d (ever: %v):\n%s", since, n.Device, when, ok, said)
						return
					}
				}
			})
		}
	}
	// Each push removes a ref and makes one that its name had no room for: that takes
	// two transactions.
	for i, until := 1, time.Now().Add(12*time.Second); time.Now().Before(until) && (i < 40 || fromMemory.Load() < 50) && !t.Failed(); i++ {
		next := maps.Clone(shows)
		gone, made := "refs/heads/t/x", "refs/heads/t"
		if i%2 == 0 {
			gone, made = made, gone
		}
		next[gone], next[made], next["refs/heads/main"] = "", values[i%3], values[(i+1)%3]
		var updates []cluster.RefUpdate
		for name, value := range next {
			if shows[name] != value {
				updates = append(updates, set(name, shows[name], value))
			}
		}
		expect(i, next)
		pushed, err := a.Commit(t.Context(), w.repo.ID, Push{ID: fmt.Sprint("push-", i), Updates: updates, Copies: 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range pushed {
			if r.Refused != "" {
				t.Fatalf("push %d: %s: %s", i, r.Ref, r.Refused)
			}
		}
		acknowledged.Store(int64(i))
		shows = next
		if i%4 == 0 {
			// So that there is something to remember.
			n := all.Load()
			waitFor(t, func() string {
				if now := all.Load(); now < n+12 && !t.Failed() {
					return fmt.Sprintf("there were %d answers since push %d", now-n, i)
				}
				return ""
			})
		}
	}
	cancel()
	clients.Wait()
	t.Logf("%d answers, %d of them from memory, during %d pushes", all.Load(), fromMemory.Load(), acknowledged.Load())
	if fromMemory.Load() == 0 {
		t.Error("no answer came from memory")
	}
}

// Where the refs are not in memory nothing is known, and nobody waits; and soon they are.
func TestAreValues(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.nodes["a"]
	one := w.commit()
	two := w.commit(one)
	a.accept(set("refs/heads/main", "", one), set("refs/heads/other", "", two))
	a.accept(set("refs/heads/other", two, one))
	check := func(a *node) {
		t.Helper()
		for _, c := range []struct {
			wants []cluster.OID
			want  bool
		}{{[]cluster.OID{one}, true}, {[]cluster.OID{two}, false}, {[]cluster.OID{one, two}, false}} {
			if got := a.AreValues(w.repo.ID, c.wants); got != c.want {
				t.Errorf("%v: %v", c.wants, got)
			}
		}
	}
	check(a)
	a.replica(w.repo.ID).known.Store(nil) // as when nobody has pushed for long
	if a.AreValues(w.repo.ID, []cluster.OID{one}) {
		t.Error("it waited for the refs to be read")
	}
	w.await("the refs to be read", func() bool { return a.AreValues(w.repo.ID, []cluster.OID{one}) })
	check(a)
}
