package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// A Choice says what of a backup is to be restored: everything, or one repository,
// which may have another name than it had.
type Choice struct {
	Repo cluster.RepoName
	As   cluster.RepoName
}

// Restored is what a restore did.
type Restored struct {
	Users        int                `json:"users"`
	Devices      int                `json:"devices"`
	Grants       int                `json:"grants"`
	Repositories []cluster.RepoName `json:"repositories"`
}

// Restore takes a backup into this cluster. It refuses before it does anything if a
// repository of a name is there. Users and devices that are there stay what they
// are; a user who shares a key with the one of that name in the backup gets the
// other's keys and tokens as well.
func (b *Backup) Restore(ctx context.Context, dir string, c Choice, actor cluster.Identity, tell func(string)) (done Restored, err error) {
	f, err := open(dir, false)
	if err != nil {
		return done, err
	}
	defer f.close()
	m, err := f.manifest()
	if err != nil {
		return done, err
	}
	if m.Format == 0 {
		return done, fmt.Errorf("the backup in %s was never finished", dir)
	}
	repos, err := m.choose(c)
	if err != nil {
		return done, err
	}
	if err := b.mustBeFree(ctx, repos, c.Repo == ""); err != nil {
		return done, err
	}
	if c.Repo == "" {
		if err := b.people(ctx, m, &done, tell); err != nil {
			return done, err
		}
	}
	for i, r := range repos {
		tell(fmt.Sprintf("%s: version %d, %d refs (%d of %d)…", r.Settings.Name, r.Position.Version, r.Refs, i+1, len(repos)))
		if err := b.restore(ctx, f, r, actor, tell); err != nil {
			return done, fmt.Errorf("%s: %w", r.Settings.Name, err)
		}
		done.Repositories = append(done.Repositories, r.Settings.Name)
	}
	b.Log.Info("restored", "dir", dir, "of", m.Time, "repositories", len(repos), "users", done.Users)
	return done, nil
}

// choose returns the repositories to restore, with the names they shall have.
func (m Manifest) choose(c Choice) ([]Repository, error) {
	if c.Repo == "" {
		return slices.DeleteFunc(slices.Clone(m.Repositories), func(r Repository) bool { return !r.Gone.IsZero() }), nil
	}
	var found []Repository
	for _, r := range m.Repositories {
		// Of two that had the name, the one that still has it.
		if r.Settings.Name == c.Repo && (len(found) == 0 || r.Gone.IsZero()) {
			if c.As != "" {
				r.Settings.Name = c.As
			}
			found = []Repository{r}
		}
	}
	if found == nil {
		return nil, fmt.Errorf("repository %q in the backup: %w", c.Repo, cluster.ErrNotFound)
	}
	return found, nil
}

func (b *Backup) mustBeFree(ctx context.Context, repos []Repository, all bool) error {
	for _, r := range repos {
		_, _, err := b.Journal.Lookup(ctx, r.Settings.Name)
		if err == nil {
			err = fmt.Errorf("repository %q: %w", r.Settings.Name, cluster.ErrExists)
			hint := "--as NAME restores it under another name"
			if all {
				hint = "restore into a new cluster; or restore single repositories with --repo, under another name with --as"
			}
			return cluster.WithHint(err, hint)
		}
		if !errors.Is(err, cluster.ErrNotFound) {
			return err
		}
		if err := b.Journal.NameClash(ctx, r.Settings.Name); err != nil {
			return err
		}
	}
	return nil
}

// people brings back users, devices and grants.
func (b *Backup) people(ctx context.Context, m Manifest, done *Restored, tell func(string)) error {
	d, err := b.Journal.Directory(ctx)
	if err != nil {
		return err
	}
	// A key that two held would name neither, and might shut out who restores.
	holder := map[string]string{}
	for _, u := range d.Users {
		for _, key := range u.Keys {
			holder[material(key)] = string(u.Name)
		}
	}
	for _, v := range d.Devices {
		holder[material(v.PublicKey)] = "device/" + string(v.Name)
	}
	for _, u := range m.Users {
		u.Keys = slices.DeleteFunc(slices.Clone(u.Keys), func(key string) bool {
			other, held := holder[material(key)]
			if held = held && other != string(u.Name); held {
				tell(fmt.Sprintf("a key of user %q is that of %q here, and is left out", u.Name, other))
			}
			return held
		})
		err := b.Journal.AddUser(ctx, u)
		if errors.Is(err, cluster.ErrExists) {
			err = b.Journal.ChangeUser(ctx, u.Name, func(there *cluster.User) error { return join(there, u) })
			if errors.Is(err, errOther) {
				tell(fmt.Sprintf("user %q is there already, with other keys, and stays as it is", u.Name))
				continue
			}
		}
		if err != nil {
			return err
		}
		done.Users++
	}
	for _, v := range m.Devices {
		if other, held := holder[material(v.PublicKey)]; held && other != "device/"+string(v.Name) {
			tell(fmt.Sprintf("the key of device %q is that of %q here, and it is left out", v.Name, other))
			continue
		}
		if slices.ContainsFunc(d.Devices, func(there cluster.Device) bool { return there.Name == v.Name }) {
			tell(fmt.Sprintf("device %q is there already, and stays as it is", v.Name))
			continue
		}
		if err := b.Journal.AddDevice(ctx, v, journal.NewID()); err != nil {
			return err
		}
		done.Devices++
	}
	return b.grants(ctx, m, done)
}

// grants brings back those whose subject is there.
func (b *Backup) grants(ctx context.Context, m Manifest, done *Restored) error {
	d, err := b.Journal.Directory(ctx)
	if err != nil {
		return err
	}
	subjects := map[string]bool{cluster.EveryUser: true}
	for _, u := range d.Users {
		subjects[string(u.Name)] = true
	}
	for _, v := range d.Devices {
		subjects["device/"+string(v.Name)] = true
	}
	for _, g := range m.Grants {
		if !subjects[g.Subject] {
			continue // of a node of the other cluster
		}
		if err := b.Journal.SetGrant(ctx, g); err != nil {
			return err
		}
		done.Grants++
	}
	return nil
}

var errOther = errors.New("another user of that name")

// join adds what a user of the backup had to the same user here: one who has one of
// the keys.
func join(there *cluster.User, u cluster.User) error {
	same := func(key string) bool {
		return slices.ContainsFunc(there.Keys, func(k string) bool { return material(k) == material(key) })
	}
	if !slices.ContainsFunc(u.Keys, same) {
		return errOther
	}
	there.Keys = slices.Clone(there.Keys)
	for _, key := range u.Keys {
		if !same(key) {
			there.Keys = append(there.Keys, key)
		}
	}
	there.Tokens = slices.Clone(there.Tokens)
	for _, t := range u.Tokens {
		if !slices.ContainsFunc(there.Tokens, func(k cluster.UserToken) bool { return k.ID == t.ID }) {
			there.Tokens = append(there.Tokens, t)
		}
	}
	there.Admin = there.Admin || u.Admin
	return nil
}

// material is a key without its comment.
func material(line string) string {
	words := strings.Fields(line)
	return strings.Join(words[:min(2, len(words))], " ")
}

// updatesPerEntry is how many refs one entry of the journal brings back.
const updatesPerEntry = 20_000

// restore makes one repository anew, in a new epoch: under a name of its own until
// it is whole.
func (b *Backup) restore(ctx context.Context, f *folder, r Repository, actor cluster.Identity, tell func(string)) (err error) {
	table, err := f.refs(r)
	if err != nil {
		return err
	}
	copied, err := f.store.Open(r.Settings.ID)
	if err != nil {
		return err
	}
	repo := r.Settings
	repo.ID = cluster.RepoID(journal.NewID())
	repo.Name, repo.InitialHead = cluster.RestoringName(repo.ID), r.Head
	repo.Public, repo.Observe = false, nil // nobody is to see half of it, or to change it
	claim, _, err := b.Journal.ClaimUpkeep(ctx, repo.ID, b.Device)
	if err != nil {
		return err
	}
	defer claim.Release()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(claim.Context(), func() { cancel(context.Cause(claim.Context())) })()
	if _, err := b.Journal.CreateRepoIn(ctx, repo, r.Position.Epoch+1); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			if gone := b.Journal.DeleteRepo(context.WithoutCancel(ctx), repo); gone != nil {
				err = errors.Join(err, fmt.Errorf("what there is of it is %q: %w", repo.Name, gone))
			}
		}
	}()
	if err := b.fill(ctx, copied, repo, table, actor); err != nil {
		return err
	}
	_, head, err := b.Journal.LookupID(ctx, repo.ID)
	if err != nil {
		return err
	}
	if head.Digest != r.Position.Digest {
		return fmt.Errorf("the refs that were restored do not have the digest of version %d", r.Position.Version)
	}
	if err := b.Journal.ChangeRepo(ctx, repo.ID, func(now *cluster.Repo) {
		now.Public, now.Observe = r.Settings.Public, r.Settings.Observe
	}); err != nil {
		return err
	}
	if r.Settings.Observe != nil {
		tell(fmt.Sprintf("%s is a mirror; a backup holds no credentials, so give them again: git cluster repo observe %s …", r.Settings.Name, r.Settings.Name))
	}
	return b.Journal.RenameRepo(ctx, repo, r.Settings.Name)
}

// fill brings objects and refs into a new repository.
func (b *Backup) fill(ctx context.Context, from *repository.Repository, repo cluster.Repo, table *repository.RefTable, actor cluster.Identity) error {
	var updates []cluster.RefUpdate
	for ref, value := range table.Values {
		updates = append(updates, cluster.RefUpdate{Ref: ref, New: value})
	}
	if len(updates) == 0 {
		return nil
	}
	slices.SortFunc(updates, func(x, y cluster.RefUpdate) int {
		// The branch that HEAD names comes first: else the engine would choose
		// another.
		switch {
		case x.Ref == table.Head():
			return -1
		case y.Ref == table.Head():
			return 1
		}
		return strings.Compare(string(x.Ref), string(y.Ref))
	})
	wants := map[cluster.OID]bool{}
	for _, u := range updates {
		wants[u.New] = true
	}
	in, out := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := from.WritePack(ctx, list(wants), nil, nil, out)
		if err == nil {
			err = io.EOF
		}
		out.CloseWithError(err)
	}()
	err := b.Engine.Import(ctx, repo.ID, updates, in)
	in.Close()
	<-done
	if err != nil {
		return err
	}
	for part := range slices.Chunk(updates, updatesPerEntry) {
		results, err := b.Engine.Commit(ctx, repo.ID, engine.Push{
			ID: journal.NewID(), Actor: actor, Updates: part, Atomic: true,
			Copies: repo.Copies, Degraded: repo.WhenDegraded == cluster.Warn,
		})
		if err != nil {
			return err
		}
		for _, r := range results {
			if r.Refused != "" {
				return fmt.Errorf("%s: %s", r.Ref, r.Refused)
			}
		}
	}
	return nil
}
