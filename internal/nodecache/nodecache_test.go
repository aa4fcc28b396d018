package nodecache

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/cluster"
)

// A clock is set by the test.
type clock struct{ t time.Time }

func (c *clock) now() time.Time           { return c.t }
func (c *clock) forward(by time.Duration) { c.t = c.t.Add(by) }

// again is the cache as the next process sees it.
func again(dir string, c *clock) *Cache { return &Cache{dir: dir, now: c.now} }

func list(id string, names ...string) *cluster.NodeList {
	l := &cluster.NodeList{Cluster: id}
	for _, n := range names {
		l.Nodes = append(l.Nodes, cluster.NodeAddress{Name: cluster.DeviceName(n), SSH: n + ":2222", HostKey: "key of " + n})
	}
	return l
}

func TestLearn(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "new", "cache"), &clock{time.Now()}
	have := func(origin string, want *cluster.NodeList) {
		t.Helper()
		got, ok := again(dir, now).Nodes(origin)
		if ok != (want != nil) || ok && !reflect.DeepEqual(got, *want) {
			t.Fatalf("nodes of %q: %+v, %v; want %+v", origin, got, ok, want)
		}
	}
	learn := func(l *cluster.NodeList, named bool) {
		var by *Voucher
		if named {
			by = &Voucher{"a:22", "key"}
		}
		again(dir, now).Learn("cluster a", l, by)
	}
	have("cluster a", nil)
	learn(list("c1", "n2"), false) // a node that nobody trusted named
	have("cluster a", nil)
	learn(list("c1", "n1", "n2"), true)
	have("cluster a", list("c1", "n1", "n2"))
	have("cluster b", nil)
	learn(list("c2", "evil"), false) // a node that is of another cluster now
	have("cluster a", list("c1", "n1", "n2"))
	learn(list("c1", "n1", "n2", "n3"), false)
	have("cluster a", list("c1", "n1", "n2", "n3"))
	learn(list("c1"), true)
	learn(&cluster.NodeList{Nodes: list("", "x").Nodes}, true)
	have("cluster a", list("c1", "n1", "n2", "n3"))

	// A list lives as long as a named node has confirmed it, and no longer.
	now.forward(listLife / 2)
	learn(nil, false)
	learn(list("c1", "n1", "n2"), false)
	now.forward(listLife / 4)
	have("cluster a", list("c1", "n1", "n2"))
	now.forward(listLife/4 + time.Second)
	have("cluster a", nil)
	learn(list("c1", "n1"), true)
	now.forward(confirmAfter)
	learn(nil, true)
	now.forward(listLife - time.Second)
	have("cluster a", list("c1", "n1"))
	learn(list("c2", "m1"), true) // the user's own node may be of a new cluster
	have("cluster a", list("c2", "m1"))
	now.t = now.t.Add(-time.Hour) // a clock that was set back
	have("cluster a", nil)
}

// Who showed another key than the one that vouched was not the same server: one of
// the two may have been somebody in between.
func TestVouchers(t *testing.T) {
	c := again(t.TempDir(), &clock{time.Now()})
	c.Learn("o", list("c1", "evil"), &Voucher{"a:22", "false"})
	c.Learn("o", nil, &Voucher{"b:22", "other"})
	if _, ok := c.Nodes("o"); !ok {
		t.Fatal("another named server took the list away")
	}
	c.Learn("o", nil, &Voucher{"a:22", "true"})
	if got, ok := c.Nodes("o"); ok {
		t.Fatalf("the list is still there: %+v", got)
	}
	c.Learn("o", list("c1", "n1"), &Voucher{"a:22", "true"})
	c.Learn("o", list("c1", "n1", "n2"), nil)
	c.Learn("o", list("c1", "n1", "n3"), &Voucher{"a:22", "true"})
	if got, ok := c.Nodes("o"); !ok || len(got.Nodes) != 2 || got.Nodes[1].Name != "n3" {
		t.Errorf("%+v, %v", got, ok)
	}
}

// What others can have written, or what is no list, is not believed.
func TestOnlyOwnFilesCount(t *testing.T) {
	dir, now := t.TempDir(), &clock{time.Now()}
	path := filepath.Join(dir, listFile("o"))
	fresh := func() {
		t.Helper()
		os.RemoveAll(path)
		again(dir, now).Learn("o", list("c1", "n1"), &Voucher{})
		if _, ok := again(dir, now).Nodes("o"); !ok {
			t.Fatal("nothing was learned")
		}
	}
	for name, spoil := range map[string]func() error{
		"others may write it": func() error { return os.Chmod(path, 0o622) },
		"cut":                 func() error { return os.Truncate(path, 20) },
		"empty":               func() error { return os.Truncate(path, 0) },
		"huge":                func() error { return os.WriteFile(path, []byte(`{"origin":"o"`+strings.Repeat(" ", maxFile)), 0o600) },
		"of another origin":   func() error { return os.Rename(filepath.Join(dir, listFile("p")), path) },
		"a directory":         func() error { os.Remove(path); return os.Mkdir(path, 0o700) },
		"too many nodes": func() error {
			l := learned{Origin: "o", Confirmed: now.t, List: *list("c1", make([]string, maxNodes+1)...)}
			text, _ := json.Marshal(l)
			return os.WriteFile(path, text, 0o600)
		},
		"another's": func() error {
			if os.Geteuid() != 0 {
				t.Log("not root: cannot give a file away")
				return os.Remove(path)
			}
			return os.Chown(path, 12345, -1)
		},
	} {
		fresh()
		again(dir, now).Learn("p", list("c9", "x"), &Voucher{})
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if got, ok := again(dir, now).Nodes("o"); ok {
			t.Errorf("%s: believed %+v", name, got)
		}
	}
}

func TestMeasures(t *testing.T) {
	dir, now := t.TempDir(), &clock{time.Now().UTC()}
	do := func(f func(c *Cache)) {
		c := again(dir, now)
		f(c)
		c.Save()
	}
	is := func(addr string, connect, avoidFor time.Duration) {
		t.Helper()
		m := again(dir, now).Measure(addr)
		var avoid time.Duration
		if until := m.AvoidUntil(); until.After(now.t) {
			avoid = until.Sub(now.t)
		}
		if m.Answers != connect || avoid != avoidFor {
			t.Fatalf("%s: answers in %v, avoided for %v; want %v, %v", addr, m.Answers, avoid, connect, avoidFor)
		}
	}
	is("a:1", 0, 0)
	do(func(c *Cache) { c.Heard("a:1", 40*time.Millisecond) })
	is("a:1", 40*time.Millisecond, 0)
	if !again(dir, now).Measure("a:1").Stale(now.t) {
		t.Error("one sample is taken for the truth")
	}
	do(func(c *Cache) { c.Heard("a:1", 400*time.Millisecond) }) // a slow moment
	is("a:1", 85*time.Millisecond, 0)
	do(func(c *Cache) { c.Heard("a:1", 30*time.Millisecond) })
	is("a:1", 30*time.Millisecond, 0)
	if again(dir, now).Measure("a:1").Stale(now.t) {
		t.Error("three samples are not enough")
	}
	do(func(c *Cache) { c.Heard("a:1", 20*time.Millisecond) }) // not worth a file
	is("a:1", 30*time.Millisecond, 0)
	now.forward(renewAfter + time.Second)
	do(func(c *Cache) { c.Heard("a:1", 20*time.Millisecond) })
	is("a:1", 20*time.Millisecond, 0)

	do(func(c *Cache) { c.Failed("a:1"); c.Failed("a:1") }) // one failure
	is("a:1", 20*time.Millisecond, time.Minute)
	now.forward(50 * time.Second)
	do(func(c *Cache) { c.Heard("a:1", 20*time.Millisecond) }) // a paused server can be connected to
	is("a:1", 20*time.Millisecond, 10*time.Second)
	do(func(c *Cache) { c.Failed("a:1") })
	is("a:1", 20*time.Millisecond, 2*time.Minute)
	for range 20 {
		now.forward(time.Minute)
		do(func(c *Cache) { c.Failed("a:1") })
	}
	is("a:1", 20*time.Millisecond, longestAvoid)
	do(func(c *Cache) { c.Served("a:1") })
	is("a:1", 20*time.Millisecond, 0)
	now.forward(measureLife + time.Second)
	is("a:1", 0, 0)

	do(func(c *Cache) {
		c.LookedUp("example.com", []string{"x:1"}, 10*time.Minute)
		c.LookedUp("none.org", nil, 10*time.Minute)
	})
	if got, ok := again(dir, now).Lookup("example.com"); !ok || !reflect.DeepEqual(got, []string{"x:1"}) {
		t.Errorf("lookup: %q, %v", got, ok)
	}
	if got, ok := again(dir, now).Lookup("none.org"); !ok || len(got) != 0 {
		t.Errorf("lookup of nothing: %q, %v", got, ok)
	}
	now.forward(lookupLife + time.Second)
	if _, ok := again(dir, now).Lookup("example.com"); ok {
		t.Error("an old answer of the DNS is still believed")
	}
}

func TestNothingGrowsWithoutBound(t *testing.T) {
	dir, now := t.TempDir(), &clock{time.Now()}
	c := again(dir, now)
	for i := range maxServers + 100 {
		c.Heard(fmt.Sprintf("h%d:22", i), time.Second)
		c.LookedUp(fmt.Sprint("d", i), make([]string, 1000), time.Minute)
	}
	c.Save()
	s := again(dir, now).load()
	if len(s.Servers) != maxServers || len(s.Lookups) != maxAnswers {
		t.Errorf("%d servers, %d lookups", len(s.Servers), len(s.Lookups))
	}
	for i := range maxLists + 20 {
		c.Learn(fmt.Sprint("origin ", i), list("c", "n"), &Voucher{})
	}
	left := filepath.Join(dir, tempPrefix+"left")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	now.forward(2 * tempLife)
	c.Learn("the last", list("c", "n"), &Voucher{})
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) > maxLists+1 {
		t.Errorf("%d files, %v", len(files), err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("what a killed process left is still there")
	}
}

// Many processes at once: every reader sees a whole file, and a written one stays
// readable.
func TestManyProcesses(t *testing.T) {
	dir, now := t.TempDir(), &clock{time.Now()}
	c := again(dir, now)
	c.Heard("first:1", time.Second)
	c.Learn("o", list("c1", "n0"), &Voucher{})
	c.Save()
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			for j := range 20 {
				c := again(dir, now)
				if c.Measure("first:1").Answers == 0 {
					t.Error("a reader missed what was there before")
				}
				if _, ok := c.Nodes("o"); !ok {
					t.Error("a reader missed the nodes")
				}
				c.Failed(fmt.Sprintf("h%d:%d", i, j))
				c.Save()
				c.Learn("o", list("c1", fmt.Sprint("n", i)), &Voucher{})
			}
		})
	}
	all.Wait()
	if left, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestNoCache(t *testing.T) {
	var c *Cache
	c.Learn("o", list("c", "n"), &Voucher{})
	c.Heard("a:1", 1)
	c.Failed("a:1")
	c.Save()
	if _, ok := c.Nodes("o"); ok || c.Measure("a:1") != (Measure{}) {
		t.Error("the nil cache remembers")
	}
	// A directory that cannot be made is as good as none.
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c = In(filepath.Join(file, "x"))
	c.Learn("o", list("c", "n"), &Voucher{})
	c.Failed("a:1")
	c.Save()
	if _, ok := c.Nodes("o"); ok {
		t.Error("it remembers without a directory")
	}
}
