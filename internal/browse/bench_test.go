package browse

import (
	"os"
	"path/filepath"
	"testing"

	"gitcluster/internal/cluster"
)

// BenchmarkRead compares the ways to read a directory of 20 files and a file:
// an index that is kept (as it is used), one that is made for each request, and Git. The
// repository has 4,000 commits and 1,000 files, about 17,000 objects.
func BenchmarkRead(b *testing.B) {
	for _, layout := range []string{"packed", "loose"} {
		w := newWorld(b, cluster.SHA1)
		linear(w, 4000, 1000)
		w.git("", "repack", "-adfq")
		if layout == "loose" {
			packs, _ := filepath.Glob(filepath.Join(w.dir, "objects", "pack", "*"))
			for _, from := range packs {
				to := filepath.Join(w.home, filepath.Base(from))
				if err := os.Rename(from, to); err != nil {
					b.Fatal(err)
				}
				if filepath.Ext(from) == ".pack" {
					pack, err := os.ReadFile(to)
					if err != nil {
						b.Fatal(err)
					}
					w.git(string(pack), "unpack-objects", "-q")
				}
			}
		}
		tip := w.rev("main")
		for _, way := range []string{"kept", "opened", "git"} {
			open := func() *Repo {
				w.browser.mu.Lock()
				defer w.browser.mu.Unlock()
				if way != "kept" {
					w.browser.idle = nil
				}
				w.browser.maxIndex = maxIndex
				if way == "git" {
					w.browser.maxIndex = -1 // none is small enough
				}
				return w.reopen()
			}
			b.Run(layout+"/tree/"+way, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if t, err := open().Tree(b.Context(), tip, "dir07"); err != nil || len(t.Entries) != 20 {
						b.Fatal(len(t.Entries), err)
					}
				}
			})
			b.Run(layout+"/file/"+way, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := open().File(b.Context(), tip, "dir07/file0007", 1<<20); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkAsk measures the other questions on the same repository, packed.
func BenchmarkAsk(b *testing.B) {
	w := newWorld(b, cluster.SHA1)
	linear(w, 4000, 5000)
	w.git("", "repack", "-adfq")
	tip := w.rev("main")
	ctx := b.Context()
	for _, q := range []struct {
		name string
		ask  func(r *Repo) error
	}{
		{"resolve", func(r *Repo) error { _, err := r.Resolve(ctx, "main"); return err }},
		{"resolve-path", func(r *Repo) error { _, _, _, err := r.ResolvePath(ctx, "main/dir07/file0007"); return err }},
		{"head", func(r *Repo) error { _, _, err := r.Head(ctx); return err }},
		{"commit", func(r *Repo) error { _, err := r.Commit(ctx, tip); return err }},
		{"history-100", func(r *Repo) error { _, _, err := r.History(ctx, HistoryQuery{From: []cluster.OID{tip}}); return err }},
		{"history-path", func(r *Repo) error {
			_, _, err := r.History(ctx, HistoryQuery{From: []cluster.OID{tip}, Paths: []string{"dir07/file0007"}})
			return err
		}},
		{"diff", func(r *Repo) error { _, err := r.Diff(ctx, DiffQuery{New: tip}); return err }},
		{"blame", func(r *Repo) error { _, err := r.Blame(ctx, tip, "dir07/file0007", 0, 0); return err }},
		{"last-modified-top", func(r *Repo) error { _, _, err := r.LastModified(ctx, tip, "", nil); return err }},
		{"last-modified-dir", func(r *Repo) error { _, _, err := r.LastModified(ctx, tip, "dir07", nil); return err }},
		{"grep", func(r *Repo) error { _, _, err := r.Grep(ctx, GrepQuery{Root: tip, Pattern: "file 4999"}); return err }},
	} {
		b.Run(q.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := q.ask(w.reopen()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
