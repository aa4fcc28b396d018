package service

import (
	"os"
	"path/filepath"
	"testing"

	"gitcluster/internal/cluster"
	"gitcluster/internal/localsocket"
	"gitcluster/internal/procreceive"
)

// TestHooksOfAPush holds that pre-receive is run where something is decided by it, and
// only there.
func TestHooksOfAPush(t *testing.T) {
	root := t.TempDir()
	program := filepath.Join(root, "program")
	if err := os.WriteFile(program, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "hooks")
	left := filepath.Join(dir, hooksPushes, "left")
	for range 2 { // at the first start, and at another, which finds what a killed node has left
		if err := InstallHooks(dir, program); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(left); err == nil {
			t.Error("a link of a former life is still there")
		}
		if err := os.Symlink("x", left); err != nil {
			t.Fatal(err)
		}
	}
	if there, err := os.Readlink(filepath.Join(dir, localsocket.PackObjects)); err != nil || there != program {
		t.Errorf("upload-pack finds %q, %v", there, err)
	}
	for name, c := range map[string]struct {
		repo  cluster.Repo
		heard procreceive.Commands
		runs  bool
	}{
		"usual":            {heard: procreceive.Commands{Count: 2}},
		"signed":           {heard: procreceive.Commands{Certificate: true}, runs: true},
		"no deletions":     {repo: cluster.Repo{DenyDeletes: true}, heard: procreceive.Commands{Count: 1}, runs: true},
		"no rewriting":     {repo: cluster.Repo{DenyNonFF: true}, heard: procreceive.Commands{Count: 1}, runs: true},
		"signed, and both": {repo: cluster.Repo{DenyDeletes: true, DenyNonFF: true}, heard: procreceive.Commands{Certificate: true}, runs: true},
	} {
		p := &push{service: &Service{Options: Options{Hooks: dir}}, id: "1234", repo: c.repo}
		hooks, heard, remove, err := p.hooks()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := heard(c.heard); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		runs := func(hook string) bool {
			there, err := filepath.EvalSymlinks(filepath.Join(hooks, hook))
			return err == nil && there == program
		}
		if !runs(localsocket.ProcReceive) || runs(localsocket.PreReceive) != c.runs {
			t.Errorf("%s: proc-receive %v, pre-receive %v, want %v", name, runs(localsocket.ProcReceive), runs(localsocket.PreReceive), c.runs)
		}
		if p.asked != c.heard.Count {
			t.Errorf("%s: %d commands", name, p.asked)
		}
		remove()
		if links, err := os.ReadDir(filepath.Join(dir, hooksPushes)); err != nil || len(links) != 1 {
			t.Errorf("%s: it leaves %v, %v", name, links, err)
		}
	}
}
