package main

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"gitcluster/internal/clustertest"
)

// noLinks says why this machine has no network for the nodes, or is nil.
var noLinks error

func TestMain(m *testing.M) {
	inside, status, err := clustertest.Enclose(context.Background())
	if noLinks = err; err == nil && !inside {
		os.Exit(status)
	}
	os.Exit(m.Run())
}

// TestFaults is a short run. A failure names the seed, which leads to the same
// plans again.
func TestFaults(t *testing.T) {
	s := Settings{Seed: uint64(time.Now().Unix()), For: 15 * time.Second, Clients: 4, Repos: 2, Plan: usual}
	if text := os.Getenv("GIT_CLUSTER_TEST_FAULT_SECONDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("GIT_CLUSTER_TEST_FAULT_SECONDS: %v", err)
		}
		s.For = time.Duration(n) * time.Second
	}
	s.Bin = programs(t, nil)
	sum := runFor(t, s)
	t.Log(sum)
	if len(sum.Anomalies) > 0 {
		t.Errorf("go run ./e2e/faults --seed %d --minutes %.2f --clients %d found or may find:\n%s\nthe end of the log:\n%s",
			s.Seed, s.For.Minutes(), s.Clients, sum.found(), tail(sum.Dir, 40))
	}
	if sum.Acknowledged == 0 || sum.Faults == 0 {
		t.Error("nothing was tested")
	}
}

// TestBrokenEngines has the run find what is wrong with engines that are broken on
// purpose, each within a minute of what clients and faults do, and of what then is
// compared. Some of them are part of every run, with more time for a machine that others
// use, and all of a long one.
func TestBrokenEngines(t *testing.T) {
	always := []string{"acknowledge-first", "no-sync"}
	for _, name := range slices.Sorted(maps.Keys(broken)) {
		t.Run(name, func(t *testing.T) {
			if !slices.Contains(always, name) {
				clustertest.NeedLong(t)
			}
			bin := programs(t, broken[name].patches)
			limit := 4 * time.Minute
			if clustertest.Long() {
				limit = time.Minute
			}
			took := time.Duration(0)
			for seed := uint64(0); took < limit; seed++ {
				sum := runFor(t, Settings{Seed: seed, For: min(cmp.Or(broken[name].takes, 15*time.Second), limit-took), Clients: 4, Repos: 1, Plan: broken[name].plan, Bin: bin, Settle: 5 * time.Second, Hasty: true})
				t.Log(sum)
				took += sum.Took
				if len(sum.Anomalies) > 0 && took <= limit {
					t.Logf("found within %v: %.300s", took.Round(time.Second/10), sum.Anomalies[0])
					return
				}
			}
			t.Errorf("nothing was found in %v", took)
		})
	}
}

// TestPatches holds that every patch finds its place, also those that only a long run
// builds.
func TestPatches(t *testing.T) {
	for name, wrong := range broken {
		if _, err := apply(t.Context(), slices.Concat(points, hurries, disks, wrong.patches)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := apply(t.Context(), deep); err != nil {
		t.Error(err)
	}
}

// TestEverySyncIsKnown holds that the run's disks hear of every sync of a file: what they
// were not told of, they lose.
func TestEverySyncIsKnown(t *testing.T) {
	sync := regexp.MustCompile(`\.Sync\(\)|unix\.(Fsync|Fdatasync|Syncfs)\(`)
	texts, err := apply(t.Context(), disks)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join("..", "..")
	err = filepath.WalkDir(filepath.Join(root, "internal"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		text := string(data)
		for name, patched := range texts {
			if strings.HasSuffix(filepath.ToSlash(name), filepath.ToSlash(file)) {
				text = patched
			}
		}
		for line := range strings.Lines(text) {
			if sync.MatchString(line) && !strings.Contains(line, "disk.Sync") && !strings.Contains(line, "log.Sync()") {
				t.Errorf("%s: %s", file, strings.TrimSpace(line))
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// programs builds the nodes of a run, with what is wrong with them.
func programs(t *testing.T, wrong []patch) string {
	t.Helper()
	bin := t.TempDir()
	patches := slices.Concat(points, hurries, disks, wrong)
	if isDeep {
		patches = append(patches, deep...)
	}
	if err := build(t.Context(), bin, patches); err != nil {
		t.Fatal(err)
	}
	return bin
}

// isDeep says that clocks are to jump, too. Everything is compiled anew for that.
var isDeep = clustertest.Long()

func runFor(t *testing.T, s Settings) Summary {
	t.Helper()
	s.Links, s.Deep, s.Dir = noLinks == nil, isDeep, t.TempDir()
	if noLinks != nil {
		t.Logf("without faults of the network and full disks: %v", noLinks)
	}
	sum, err := Run(t.Context(), s)
	if err != nil {
		t.Fatalf("seed %d: %v\nthe end of the log:\n%s", s.Seed, err, tail(s.Dir, 40))
	}
	return sum
}

// TestSeed holds that a seed always leads to the same faults, and to the same plans of
// every client.
func TestSeed(t *testing.T) {
	has := []means{nothing, links, preload, clocks}
	plans := func(seed uint64, number int) string {
		k := &client{run: &run{Settings: Settings{Plan: usual}, repos: []string{"a", "b"}}, random: randomOf(seed, number), refs: sharedRefs}
		text := ""
		for range 300 {
			i := k.next()
			text += fmt.Sprintf("%+v %+v\n", i, k.plan(rand.New(rand.NewPCG(i.seed[0], i.seed[1]))))
		}
		return text
	}
	for what, of := range map[string]func(seed uint64) string{
		"the faults":      func(seed uint64) string { return fmt.Sprint(draw(seed, 500, has, usual)) },
		"a client's plan": func(seed uint64) string { return plans(seed, 1) },
	} {
		if once, again := of(5), of(5); once != again || once == of(6) {
			t.Errorf("%s: depends on something else than the seed, or not on the seed", what)
		}
	}
	if plans(5, 1) == plans(5, 2) {
		t.Error("two clients have the same plan")
	}
}

// TestRegisterModel gives the checker histories whose answers are known.
func TestRegisterModel(t *testing.T) {
	read := func(value string) access { return access{read: true, value: value} }
	write := func(was, value string, o outcome) access {
		return access{was: was, wasKnown: true, value: value, outcome: o}
	}
	type op struct {
		from, to int64
		access
	}
	for name, c := range map[string]struct {
		good    bool
		history []op
	}{
		"in order":                            {true, []op{{1, 2, write("", "a", done)}, {3, 4, read("a")}}},
		"a stale read":                        {false, []op{{1, 2, write("", "a", done)}, {3, 4, read("")}}},
		"an old value while it is replaced":   {true, []op{{1, 5, write("", "a", done)}, {2, 3, read("")}, {4, 6, read("a")}}},
		"back in time":                        {false, []op{{1, 9, write("", "a", done)}, {2, 3, read("a")}, {4, 5, read("")}}},
		"two who replace the same value":      {false, []op{{1, 5, write("", "a", done)}, {2, 6, write("", "b", done)}}},
		"refused for a reason":                {true, []op{{1, 5, write("", "a", done)}, {2, 6, write("", "b", refused)}}},
		"refused for none":                    {false, []op{{1, 2, write("", "b", refused)}}},
		"a refused value is seen":             {false, []op{{1, 2, write("x", "b", refused)}, {3, 4, read("b")}}},
		"unknown, and it took place later":    {true, []op{{1, 99, write("", "a", unknown)}, {3, 4, read("")}, {5, 6, read("a")}}},
		"unknown, and it never took place":    {true, []op{{1, 99, write("", "a", unknown)}, {3, 4, write("", "b", done)}, {5, 6, read("b")}}},
		"unknown, and it came and went":       {false, []op{{1, 99, write("", "a", unknown)}, {3, 4, read("a")}, {5, 6, read("")}}},
		"acknowledged, and another's is seen": {false, []op{{1, 2, write("", "a", done)}, {3, 4, write("a", "b", done)}, {5, 6, read("a")}}},
	} {
		var all []porcupine.Operation
		for _, o := range c.history {
			all = append(all, porcupine.Operation{Input: o.access, Call: o.from, Return: o.to})
		}
		if got := porcupine.CheckOperations(registerModel, all); got != c.good {
			t.Errorf("%s: %v, want %v", name, got, c.good)
		}
	}
}
