package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gitcluster/e2e/faults/disk"
	"gitcluster/internal/clustertest"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// A fault run needs nodes that can be stopped in the middle of their code, and its
// own test needs nodes that are wrong. Neither is anything the released programs
// should know of: their source is changed for these builds alone, through the Go
// command's overlay. A change whose place is gone is an error.

// A patch replaces one piece of a source file, which must be there exactly once, or
// where there is nothing to replace is a file of its own.
type patch struct{ file, old, new string }

const imports = "import (\n"

// helpers are the packages that patches call, and how it is seen that they do.
var helpers = map[string]*regexp.Regexp{
	"failpoint": regexp.MustCompile(`\bfailpoint\.(Hit|Unreached)\(`),
	"disk":      regexp.MustCompile(`\bdisk\.(Sync|SyncFS|Environment)\(`),
}

// hit is the start of a statement that stops at a point.
func hit(file, point, before string) patch {
	return patch{file, before, "failpoint.Hit(\"" + point + "\")\n" + before}
}

// points are where a run can stop a node, beside the engine's own steps.
var points = []patch{
	{"internal/engine/engine.go", "o.At = func(Step) {}", "o.At = func(s Step) { failpoint.Hit(string(s)) }"},
	// The journal has the entry and this node does not know.
	{"internal/journal/append.go", "r, err := txn()\n", "r, err := txn()\nif err == nil && r.Succeeded && failpoint.Hit(\"answer\") {\nr, err = nil, context.DeadlineExceeded\n}\n"},
	// A peer has stored a copy and its answer is not sent.
	hit("internal/engine/take.go", "taken", "return e.Incarnation, r.fence()"),
	// A catch-up lacks objects and has asked for none.
	hit("internal/engine/fetch.go", "missed", "err := e.gather(ctx, r, r.repo, r.talking(e.sources(newest)), wants, haves, func(device cluster.DeviceName) {"),
	// A catch-up has the objects and not the refs; has the refs, and not its position.
	hit("internal/engine/catchup.go", "fetched", "if err := write(ctx, r.repo, r.table, updates); err != nil {"),
	hit("internal/engine/catchup.go", "replayed", "if r.table.Digest() != head.Digest {"),
}

// hurries have things happen in seconds that otherwise take days, or many pushes.
var hurries = []patch{
	{"internal/engine/engine.go", "o.Unreached = 14 * 24 * time.Hour", "o.Unreached = failpoint.Unreached()"},
	{"internal/engine/engine.go", "o.Keep = 10_000", "o.Keep = 24"},
	{"internal/engine/engine.go", "o.Housekeeping = upkeepSlot", "o.Housekeeping = upkeepSlot / 2"},
	{"internal/engine/housekeeping.go", "const upkeepSlot = 10 * time.Minute", "const upkeepSlot = 10 * time.Second"},
	{"internal/engine/housekeeping.go", "const upkeepRetry = 6 * time.Hour", "const upkeepRetry = 6 * time.Second"},
	{"internal/engine/housekeeping.go", "manyPacks   = 24 ", "manyPacks   = 6 "},
	{"internal/engine/housekeeping.go", "manyRefs    = 1000 ", "manyRefs    = 100 "},
	{"internal/engine/verify.go", "verifyPause = 10 * time.Second", "verifyPause = time.Second"},
	{"internal/engine/verify.go", "verifyRound = 24 * time.Hour", "verifyRound = 5 * time.Second"},
	{"internal/engine/verify.go", "const deepEvery = 7", "const deepEvery = 2"},
	{"internal/engine/verify.go", "const mendAgain = 10 * time.Minute", "const mendAgain = 5 * time.Second"},
	{"internal/journal/append.go", "const chunkBytes = 512 << 10", "const chunkBytes = 16 << 10"},
}

// disks are where a node syncs what it has written, so that a disk can be slow and can
// lose what was not synced.
var disks = []patch{
	{"internal/repository/sync.go", "return f.Sync()", "return disk.Sync(f)"},
	{"internal/repository/syncfs_linux.go", `return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))`,
		`return disk.SyncFS(f, func() error { return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd()))) })`},
	{"internal/durable/durable.go", "if err := f.Sync(); err != nil {", "if err := disk.Sync(f); err != nil {"},
	{"internal/durable/durable.go", "return f.Sync()", "return disk.Sync(f)"},
	// A Git process's are in a library that it loads.
	{"internal/gitexec/gitexec.go", "p.cmd.Env, p.cmd.Dir = c.Env, c.Dir", "p.cmd.Env, p.cmd.Dir = disk.Environment(c.Env), c.Dir"},
}

// steps are the names of all points.
var steps = []string{"prepared", "appended", "written", "applied", "answer", "taken", "missed", "fetched", "replayed", "discarding"}

// build compiles the module's programs with patches into dir, and what their Git
// processes load.
func build(ctx context.Context, dir string, patches []patch) error {
	texts, err := apply(ctx, patches)
	if err != nil {
		return err
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for i, path := range slices.Sorted(maps.Keys(texts)) {
		text := texts[path]
		for helper, called := range helpers {
			if called.MatchString(text) {
				text = strings.Replace(text, imports, imports+"\t\"gitcluster/e2e/faults/"+helper+"\"\n", 1)
			}
		}
		copied := filepath.Join(dir, fmt.Sprintf("patched%d.go", i))
		if err := os.WriteFile(copied, []byte(text), 0o600); err != nil {
			return err
		}
		overlay.Replace[path] = copied
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		return err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, data, 0o600); err != nil {
		return err
	}
	if err := clustertest.Build(ctx, dir, "-overlay", list); err != nil {
		return err
	}
	return compile(ctx, dir)
}

// apply returns the files that patches change, by their paths.
func apply(ctx context.Context, patches []patch) (map[string]string, error) {
	texts := map[string]string{}
	for _, p := range patches {
		path, err := source(ctx, p.file)
		if err != nil {
			return nil, err
		}
		if p.old == "" { // a file of its own
			texts[path] = p.new
			continue
		}
		text, ok := texts[path]
		if !ok {
			data, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			text = string(data)
		}
		if n := strings.Count(text, p.old); n != 1 {
			return nil, fmt.Errorf("%s has %d times what is to be replaced: %q", p.file, n, p.old)
		}
		texts[path] = strings.Replace(text, p.old, p.new, 1)
	}
	return texts, nil
}

// library is what compile makes.
func library(dir string) string { return filepath.Join(dir, "preload.so") }

// compile makes the library that Git processes load. Without a compiler for C there is
// none, and no fault of disks.
func compile(ctx context.Context, dir string) error {
	cc, err := gitexec.Find("cc")
	if err != nil {
		return nil
	}
	source := filepath.Join(dir, "preload.c")
	if err := os.WriteFile(source, []byte(disk.Source), 0o600); err != nil {
		return err
	}
	c := gitcmd.Command{Args: []string{cc, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library(dir), source}, Env: os.Environ()}
	return new(gitexec.Runner).Run(ctx, c, gitexec.IO{})
}
