//go:build linux

package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// TestFullDisk fills the disk of a node: it refuses pushes with the reason, loses
// nothing, the others go on, and it recovers when there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("a small disk cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	c := clustertest.Start(t, 3)
	u, n := c.Admin, c.Node(t, "node3")
	n.Kill()
	small := filepath.Join(disk, "repositories")
	if err := os.RemoveAll(filepath.Join(n.Data, "repositories")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(small, filepath.Join(n.Data, "repositories")); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Via("node3").Git(t, work, "push", "-q", "cluster::disk/a", "main")

	filler := filepath.Join(disk, "filler")
	if err := fill(filler); err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 1<<20)
	rand.Read(noise)
	next := u.Commit(t, work, "noise", hex.EncodeToString(noise))
	for _, to := range []string{"cluster::disk/a", "ssh://node3/disk/a"} {
		r := u.Via("node3").Run(work, "git", "push", to, "main")
		if said := r.Refused(t); !strings.Contains(said, "No space left on device") && !strings.Contains(said, "no space left on device") {
			t.Errorf("push to %s: no reason in\n%s", to, said)
		}
	}
	if !n.Running() {
		t.Fatal("the node ended because its disk is full")
	}
	// What it had it still shows, as the others do.
	checkEverywhere(t, c, "disk/a", map[string]string{"refs/heads/main": head})

	// The others take the push; this node cannot follow, and says so.
	u.Via("node1").Git(t, work, "push", "-q", "cluster::disk/a", "main")
	r := u.Run(work, "git", "ls-remote", "ssh://node3/disk/a")
	if said := r.Refused(t); !strings.HasPrefix(said, "# ") {
		t.Errorf("read from a node that cannot follow:\n%s", said)
	}
	if got := u.Git(t, work, "ls-remote", "cluster::disk/a", "main"); !strings.HasPrefix(got, next) {
		t.Errorf("through the helper: %s", got)
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	clustertest.Await(t, 2*time.Minute, func() string {
		r := u.Run(work, "git", "ls-remote", "ssh://node3/disk/a", "main")
		if !strings.HasPrefix(r.Stdout, next) {
			return fmt.Sprintf("with room again: %s%s", r.Stdout, r.Stderr)
		}
		return ""
	})
	next = u.Commit(t, work, "f", "three")
	u.Via("node3").Git(t, work, "push", "-q", "cluster::disk/a", "main")
	checkEverywhere(t, c, "disk/a", map[string]string{"refs/heads/main": next})
}

// fill writes a file until its disk is full.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for block := bytes.Repeat([]byte("full"), 1<<10); len(block) > 0; {
		if _, err := f.Write(block); err != nil {
			if block = block[:len(block)/2]; len(block) == 0 {
				return nil
			}
		}
	}
	return nil
}
