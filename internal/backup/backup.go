// Package backup writes what a cluster holds to a folder, and brings it back: its
// users, devices and grants, and of each repository its settings and its refs and
// objects at one version.
//
// Entry points: [Backup.Write] makes a backup or brings one up to date;
// [Backup.Restore] takes it into a cluster.
//
// The folder holds
//
//	manifest.json                    what there is, and where (mode 0600: it has the hashes of tokens)
//	refs/ID-EPOCH-VERSION            the refs of one repository, "OID ref" on each line
//	repositories/ab/ab….git          a bare Git repository for each, which any Git can read
//	git-cluster-backup               locked by who works on the folder
//
// It promises that the manifest names only what is there and complete: it is
// replaced last, so that a backup that is broken off leaves the one before; that
// objects are found complete, and refs to have the digest of their version, before
// it does; and that a second backup transfers only what is new. A restored repository
// appears whole or not at all.
package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/durable"
	"gitcluster/internal/engine"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// A Backup works with the node it is on.
type Backup struct {
	Cluster journal.ClusterRecord
	Device  cluster.DeviceName
	Version string // of the program
	Journal *journal.Journal
	Engine  *engine.Engine
	Log     *slog.Logger
}

// A Summary is what a backup did.
type Summary struct {
	Repositories int   `json:"repositories"` // that it holds now, and the cluster has
	Changed      int   `json:"changed"`      // that were brought up to date
	Bytes        int64 `json:"bytes"`        // of packs that were transferred
}

// Write brings the backup in dir up to date, or makes it: all repositories, or only
// those named. tell gets lines for the person who waits.
func (b *Backup) Write(ctx context.Context, dir string, only []cluster.RepoName, tell func(string)) (sum Summary, err error) {
	f, err := open(dir, true)
	if err != nil {
		return sum, err
	}
	defer f.close()
	last, err := f.manifest()
	if err != nil {
		return sum, err
	}
	if last.Format != 0 && last.Cluster != b.Cluster.ID {
		return sum, fmt.Errorf("%s is a backup of the cluster %q (%s)", dir, last.Name, last.Cluster)
	}
	d, err := b.Journal.Directory(ctx)
	if err != nil {
		return sum, err
	}
	next := Manifest{
		Format: format, Cluster: b.Cluster.ID, Name: b.Cluster.Name, Node: b.Device, Version: b.Version, Time: time.Now().UTC(),
		Users: d.Users, Grants: d.Grants, Devices: slices.DeleteFunc(d.Devices, func(v cluster.Device) bool { return v.Node }),
	}
	if err := os.MkdirAll(f.path("refs"), 0o700); err != nil {
		return sum, err
	}
	var failed []string
	had := map[cluster.RepoID]Repository{}
	for _, r := range last.Repositories {
		had[r.Settings.ID] = r
	}
	repos, err := b.repositories(ctx, only)
	if err != nil {
		return sum, err
	}
	for i, repo := range repos {
		before := had[repo.ID]
		delete(had, repo.ID)
		now := before
		if repo.Head.Position != before.Position || !f.holds(before) {
			tell(fmt.Sprintf("%s: version %d → %d (%d of %d)…", repo.Name, before.Position.Version, repo.Head.Version, i+1, len(repos)))
			var n int64
			now, n, err = b.copy(ctx, f, engine.Resolved{Repo: repo.Repo, Head: repo.Head})
			sum.Bytes += n
			if errors.Is(err, cluster.ErrNotFound) && len(only) == 0 {
				continue // deleted since it was listed
			}
			if cause := context.Cause(ctx); cause != nil {
				return sum, cause
			}
			if err != nil {
				// One that is fenced here, say, is no reason to have no backup of the others;
				// what the backup has of it stays.
				tell(fmt.Sprintf("%s: %v", repo.Name, err))
				failed = append(failed, fmt.Sprintf("%s: %v", repo.Name, err))
				if before.Settings.ID != "" {
					next.Repositories = append(next.Repositories, before)
				}
				continue
			}
			sum.Changed++
		}
		now.Settings, now.Gone = repo.Repo, time.Time{}
		next.Repositories = append(next.Repositories, now)
	}
	for _, r := range last.Repositories {
		if _, left := had[r.Settings.ID]; !left {
			continue
		}
		if len(only) == 0 && r.Gone.IsZero() {
			r.Gone = next.Time
			tell(fmt.Sprintf("%s is no longer in the cluster; what the backup has of it stays", r.Settings.Name))
		}
		next.Repositories = append(next.Repositories, r)
	}
	for _, r := range next.Repositories {
		if r.Gone.IsZero() {
			sum.Repositories++
		}
	}
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return sum, err
	}
	if err := durable.WriteFile(f.path(manifestFile), append(data, '\n'), 0o600); err != nil {
		return sum, err
	}
	b.Log.Info("backup", "dir", dir, "repositories", sum.Repositories, "changed", sum.Changed, "bytes", sum.Bytes, "took", time.Since(next.Time).Round(time.Millisecond))
	if err := f.tidy(next); err != nil || len(failed) == 0 {
		return sum, err
	}
	const told = 3
	return sum, cluster.WithHint(fmt.Errorf("%d of %d repositories are not as new in it as in the cluster: %s", len(failed), len(repos), strings.Join(failed[:min(len(failed), told)], "; ")),
		"the others are; run it again, here or on another node")
}

// repositories are all there are, or those asked for.
func (b *Backup) repositories(ctx context.Context, only []cluster.RepoName) (all []journal.RepoHead, err error) {
	for _, name := range only {
		repo, head, err := b.Journal.Lookup(ctx, name)
		if err != nil {
			return nil, err
		}
		all = append(all, journal.RepoHead{Repo: repo, Head: head})
	}
	if len(only) > 0 {
		return all, nil
	}
	for r, err := range b.Journal.Repos(ctx, "") {
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// copy brings the backup's copy of one repository up to the version that the
// replica here shows. It returns how many bytes came over.
func (b *Backup) copy(ctx context.Context, f *folder, at engine.Resolved) (r Repository, n int64, err error) {
	if _, err := b.Engine.Sync(ctx, at, nil); err != nil {
		return r, 0, err
	}
	wanted := repository.NewRefTable()
	err = b.Engine.WriteRefs(ctx, at.Repo.ID, func(p cluster.Position, head cluster.RefName, refs []cluster.RefUpdate) error {
		r.Position, r.Head, r.Refs = p, head, len(refs)
		for _, u := range refs {
			wanted.Set(u.Ref, u.New)
		}
		wanted.SetHead(head)
		return nil
	})
	if err != nil {
		return r, 0, err
	}
	if wanted.Digest() != r.Position.Digest {
		return r, 0, fmt.Errorf("the refs of version %d do not have its digest", r.Position.Version)
	}
	copied, err := f.store.Create(ctx, at.Repo)
	if err != nil {
		return r, 0, err
	}
	have, err := copied.LoadRefs(ctx)
	if err != nil {
		return r, 0, err
	}
	if n, err = b.objects(ctx, at.Repo.ID, copied, have, wanted); err != nil {
		return r, n, err
	}
	if err := writeRefs(f.path(refsFile(at.Repo.ID, r.Position)), wanted); err != nil {
		return r, n, err
	}
	return r, n, show(ctx, copied, have, wanted, r.Position)
}

// objects transfers what the wanted refs reach and those of the backup do not.
func (b *Backup) objects(ctx context.Context, id cluster.RepoID, to *repository.Repository, have, wanted *repository.RefTable) (int64, error) {
	haves := map[cluster.OID]bool{}
	for _, value := range have.Values {
		haves[value] = true
	}
	wants := map[cluster.OID]bool{}
	for _, value := range wanted.Values {
		if !haves[value] {
			wants[value] = true
		}
	}
	if len(wants) == 0 {
		return 0, nil
	}
	in, out := io.Pipe()
	count := &counter{w: out}
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := b.Engine.WritePack(ctx, id, list(wants), list(haves), count)
		if err == nil {
			err = io.EOF
		}
		out.CloseWithError(err)
	}()
	err := to.ReadPack(ctx, in, list(wants), list(haves))
	in.Close()
	<-done
	return count.n, err
}

func list(set map[cluster.OID]bool) []cluster.OID {
	all := make([]cluster.OID, 0, len(set))
	for oid := range set {
		all = append(all, oid)
	}
	slices.Sort(all)
	return all
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// show has the refs of the backup's repository be those of the version, so that any
// Git can read it, and keeps its packs and refs few. Nothing else relies on them.
func show(ctx context.Context, repo *repository.Repository, have, wanted *repository.RefTable, at cluster.Position) error {
	if err := engine.ShowRefs(ctx, repo, have, wanted); err != nil {
		return err
	}
	if disk, err := repo.LoadRefs(ctx); err != nil {
		return err
	} else if disk.Digest() != at.Digest {
		return errors.New("the refs that were written do not have the digest of their version")
	}
	if err := repo.SetApplied(at); err != nil {
		return err
	}
	const many = 1000
	if n, err := repo.LooseRefs(many); err != nil {
		return err
	} else if n == many {
		packed, err := repo.PackRefs(ctx)
		if err == nil {
			_, err = packed.Drop(wanted.Len())
		}
		if err != nil {
			return err
		}
	}
	packs, _, err := repo.Packs()
	if err != nil || len(packs) < 24 {
		return err
	}
	return repo.RollUp(ctx, repository.Unbalanced(packs))
}
