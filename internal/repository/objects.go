package repository

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// Closed reports whether every object that wants reach is here, taking for
// granted that everything haves reach is. A tip alone proves nothing: an
// interrupted unpack leaves one without its history.
func (r *Repository) Closed(ctx context.Context, wants, haves []cluster.OID) (bool, error) {
	return r.closed(ctx, wants, haves, "")
}

// Bundle writes all refs, those kept aside too, and what they reach to a new file,
// synced to disk.
func (r *Repository) Bundle(ctx context.Context, file string) error {
	if err := r.run.Run(ctx, gitcmd.Bundle(r.Dir, file), gitexec.IO{}); err != nil {
		return err
	}
	return syncFile(file, filepath.Dir(file))
}

// WritePack writes a thin pack of what wants reach and haves do not. Haves
// that are not here are passed over: they only make the pack smaller. Git is asked
// about those that the caller does not know; here, if not nil, tells what it knows.
func (r *Repository) WritePack(ctx context.Context, wants, haves []cluster.OID, here func(cluster.OID) bool, w io.Writer) error {
	var known, doubtful []cluster.OID
	for _, oid := range haves {
		if here != nil && here(oid) {
			known = append(known, oid)
		} else {
			doubtful = append(doubtful, oid)
		}
	}
	found, err := r.present(ctx, doubtful)
	if err != nil {
		return err
	}
	known = append(known, found...)
	return r.run.Run(ctx, gitcmd.PackObjects(r.Dir), gitexec.IO{Stdin: revisions(wants, known), Stdout: w})
}

// ReadPack stores the pack that comes from rd, after finding the history of
// wants complete with it; haves are values whose history is known to be
// complete here. On an error nothing has been stored. On success the objects
// are synced to disk.
func (r *Repository) ReadPack(ctx context.Context, rd io.Reader, wants, haves []cluster.OID) error {
	in := bufio.NewReaderSize(rd, 64<<10)
	count, err := packCount(in)
	if err != nil {
		return err
	}
	if count == 0 {
		io.Copy(io.Discard, in)
		return r.mustBeClosed(ctx, wants, haves, "")
	}
	quarantine, err := os.MkdirTemp(filepath.Join(r.Dir, "objects"), "incoming-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(quarantine)
	if err := r.unpack(ctx, in, count, wants, quarantine); err != nil {
		return err
	}
	if err := r.mustBeClosed(ctx, wants, haves, quarantine); err != nil {
		return err
	}
	return r.admit(quarantine)
}

// unpack stores a pack in a quarantine: a small one in this process, if it can.
func (r *Repository) unpack(ctx context.Context, in io.Reader, count uint32, wants []cluster.OID, quarantine string) error {
	if count <= maxFollowed && !r.apart && len(wants) > 0 {
		pack, more, err := readSmall(ctx, in)
		if err != nil {
			return err
		}
		in = more
		if more == nil {
			if storeSmall(pack, len(wants[0])/2, quarantine) == nil {
				return nil
			}
			if err := os.RemoveAll(filepath.Join(quarantine, "pack")); err != nil {
				return err
			}
			in = bytes.NewReader(pack)
		}
	}
	c := gitcmd.IndexPack(r.Dir, quarantine)
	if r.apart {
		c = c.Apart()
	}
	return r.run.Run(ctx, c, gitexec.IO{Stdin: in})
}

// CheckValues reports what Git would say against giving refs their new values:
// that there is no such object, or that a branch must be a commit. It asks for
// all at once; deletions have nothing to check.
func (r *Repository) CheckValues(ctx context.Context, updates []cluster.RefUpdate) (faults map[cluster.RefName]string, err error) {
	var values []cluster.OID
	var asked []cluster.RefUpdate
	for _, u := range updates {
		if !u.New.IsZero() {
			values, asked = append(values, u.New), append(asked, u)
		}
	}
	faults = map[cluster.RefName]string{}
	if len(values) == 0 {
		return faults, nil
	}
	out, err := r.run.Output(ctx, gitcmd.CheckObjects(r.Dir), revisions(values, nil))
	if err != nil {
		return nil, err
	}
	n := 0
	for line := range strings.Lines(string(out)) {
		if n == len(asked) {
			break
		}
		u := asked[n]
		n++
		switch _, kind, _ := strings.Cut(strings.TrimSpace(line), " "); {
		case kind == "missing":
			faults[u.Ref] = fmt.Sprintf("trying to write ref '%s' with nonexistent object %s", u.Ref, u.New)
		case u.Ref.IsBranch() && kind != "commit":
			faults[u.Ref] = fmt.Sprintf("trying to write non-commit object %s to branch '%s'", u.New, u.Ref)
		}
	}
	if n < len(asked) {
		return nil, fmt.Errorf("git cat-file answered %d of %d questions", n, len(asked))
	}
	return faults, nil
}

// admit moves the packs of a quarantine into the repository.
func (r *Repository) admit(quarantine string) error {
	from, to := filepath.Join(quarantine, "pack"), filepath.Join(r.Dir, "objects", "pack")
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	// A pack is in use as soon as its index is there, so that goes last.
	for _, last := range []bool{false, true} {
		for _, e := range entries {
			name := e.Name()
			if !strings.HasPrefix(name, "pack-") || strings.HasSuffix(name, ".idx") != last {
				continue
			}
			if err := os.Rename(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
				return err
			}
		}
	}
	return r.SyncObjects()
}

func (r *Repository) mustBeClosed(ctx context.Context, wants, haves []cluster.OID, quarantine string) error {
	ok, err := r.closed(ctx, wants, haves, quarantine)
	if err == nil && !ok {
		err = fmt.Errorf("the history of %d wanted objects is not complete: %w", len(wants), cluster.ErrNoReplica)
	}
	return err
}

func (r *Repository) closed(ctx context.Context, wants, haves []cluster.OID, quarantine string) (bool, error) {
	if len(wants) == 0 || r.proven(wants, haves, quarantine) {
		return true, nil
	}
	c := gitcmd.RevList(r.Dir, quarantine)
	if r.apart && quarantine != "" {
		c = c.Apart()
	}
	err := r.run.Run(ctx, c, gitexec.IO{Stdin: revisions(wants, haves)})
	if context.Cause(ctx) != nil {
		return false, context.Cause(ctx)
	}
	if exit, ok := err.(*gitexec.ExitError); ok && exit.Status > 0 {
		return false, nil
	}
	return err == nil, err
}

// present returns those of oids that are in the repository.
func (r *Repository) present(ctx context.Context, oids []cluster.OID) ([]cluster.OID, error) {
	if len(oids) == 0 {
		return nil, nil
	}
	out, err := r.run.Output(ctx, gitcmd.CheckObjects(r.Dir), revisions(oids, nil))
	if err != nil {
		return nil, err
	}
	var here []cluster.OID
	for line := range strings.Lines(string(out)) {
		oid, kind, _ := strings.Cut(strings.TrimSpace(line), " ")
		if kind != "missing" {
			here = append(here, cluster.OID(oid))
		}
	}
	return here, nil
}

func revisions(wants, haves []cluster.OID) io.Reader {
	var b strings.Builder
	for _, oid := range wants {
		b.WriteString(string(oid) + "\n")
	}
	for _, oid := range haves {
		b.WriteString("^" + string(oid) + "\n")
	}
	return strings.NewReader(b.String())
}

// packCount returns the number of objects in the pack that starts at in,
// without consuming it (gitformat-pack(5)).
func packCount(in *bufio.Reader) (uint32, error) {
	head, err := in.Peek(12)
	if err != nil {
		return 0, fmt.Errorf("read pack: %w", err)
	}
	if string(head[:4]) != "PACK" {
		return 0, fmt.Errorf("read pack: it starts with %q", head[:4])
	}
	return binary.BigEndian.Uint32(head[8:]), nil
}
