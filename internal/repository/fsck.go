package repository

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// What [Repository.Fsck] may find. Any other error of it has found nothing out.
var (
	// ErrDamaged: Git says that refs, or objects that refs reach, are missing or broken.
	ErrDamaged = errors.New("objects are missing or broken")
	// ErrDerived: only what Git has computed from the objects is broken.
	ErrDerived = errors.New("what was computed from the objects is broken")
)

// What the bits of git fsck's status stand for (builtin/fsck.c); 16, 32 and 64 are the
// commit graph, a multi-pack index and a reverse index.
const (
	fsckPacks  = 1 | 2 | 4 | 8 // objects, what is reachable, packs, refs
	fsckBitmap = 128           // or it gave up, be it for a broken object or for want of memory
	fsckLast   = 255
)

// Fsck walks from every ref. What Git then says is wrong, it must say twice, the second
// time without looking at what was computed from the objects: that may name objects that
// are gone, and hide others.
func (r *Repository) Fsck(ctx context.Context) error {
	first := r.run.Run(ctx, gitcmd.Fsck(r.Dir), gitexec.IO{})
	if first == nil || fsckStatus(first) == 0 {
		return first
	}
	second := r.run.Run(ctx, gitcmd.FsckObjects(r.Dir), gitexec.IO{})
	switch status := fsckStatus(second); {
	case second == nil:
		return fmt.Errorf("%w: %w", ErrDerived, first)
	case status == 0:
		return second
	case status&fsckPacks == 0 && (status&fsckBitmap == 0 || !gaveUp(second)):
		return fmt.Errorf("%w: %w", ErrDerived, second)
	}
	return fmt.Errorf("%w: %w", ErrDamaged, second)
}

// fsckStatus is the status by which git fsck says that something is wrong, or 0 where it
// did not come to say anything: a signal ended it, or it was not Git that ended.
func fsckStatus(err error) int {
	exit := (*gitexec.ExitError)(nil)
	if !errors.As(err, &exit) || exit.Status < 0 || exit.Status > fsckLast {
		return 0
	}
	switch exit.Status {
	case 126, 127, 129: // the system's, for what cannot be run, and Git's for a wrong argument
		return 0
	}
	return exit.Status
}

func gaveUp(err error) bool {
	exit := (*gitexec.ExitError)(nil)
	return errors.As(err, &exit) && strings.Contains(exit.Stderr, "fatal: ")
}

// Apart returns the repository as one whose own objects nobody trusts: a pack that it
// reads must be whole by itself. What is broken here may then be read from that pack.
func (r *Repository) Apart() *Repository {
	apart := *r
	apart.apart = true
	return &apart
}

// WriteDerived removes what Git has computed from the objects, and computes anew what
// does not take long. The bitmap comes with the next pack of all that refs reach. Nobody
// else may be writing packs.
func (r *Repository) WriteDerived(ctx context.Context) error {
	if err := removeMatching(filepath.Join(r.Dir, "objects", "info"), "commit-graph"); err != nil {
		return err
	}
	if err := removeMatching(r.packDir(), "multi-pack-index"); err != nil {
		return err
	}
	if err := removeEnding(r.packDir(), ".bitmap", ".rev"); err != nil {
		return err
	}
	h, err := r.housekeeping()
	if err != nil {
		return err
	}
	if h.Reached != "" {
		h.Reached = "" // so that one with a bitmap is written
		if err := r.setHousekeeping(h); err != nil {
			return err
		}
	}
	return r.WriteCommitGraph(ctx)
}
