package repository

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// An Incoming is what a client has sent for a push, in a quarantine: nobody sees its
// objects there but who is given it. It must be removed.
type Incoming struct {
	repo *Repository

	mu  sync.Mutex
	dir string // of the quarantine; "" when there is nothing in it
}

// ErrUnpack: what the client has sent is no pack, or one whose objects Git does not
// accept.
var ErrUnpack = errors.New("the pack cannot be stored")

// Receive reads the pack of a client, who is not trusted: each object is checked. said
// gets what Git tells the client meanwhile, and a zero byte when all was read.
func (r *Repository) Receive(ctx context.Context, format cluster.ObjectFormat, rd *bufio.Reader, progress bool, said io.Writer) (*Incoming, error) {
	in := &Incoming{repo: r}
	count, err := packCount(rd)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnpack, err)
	}
	if count == 0 {
		said.Write([]byte{0})
		return in, emptyPack(rd, format)
	}
	if in.dir, err = os.MkdirTemp(filepath.Join(r.Dir, "objects"), "incoming-"); err != nil {
		return nil, err
	}
	err = r.run.Run(ctx, gitcmd.IndexIncoming(r.Dir, in.dir, progress), gitexec.IO{Stdin: rd, Stderr: said})
	if err != nil {
		in.Remove()
		if exit := (*gitexec.ExitError)(nil); errors.As(err, &exit) && context.Cause(ctx) == nil {
			err = fmt.Errorf("%w: %w", ErrUnpack, err)
		}
		return nil, err
	}
	return in, nil
}

// emptyPack reads a pack without objects.
func emptyPack(rd io.Reader, format cluster.ObjectFormat) error {
	h := sha1.New()
	if format == cluster.SHA256 {
		h = sha256.New()
	}
	_, err := io.CopyN(h, rd, 12)
	sum := make([]byte, h.Size())
	if err == nil {
		_, err = io.ReadFull(rd, sum)
	}
	if err == nil && !bytes.Equal(h.Sum(nil), sum) {
		err = errors.New("its checksum is wrong")
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrUnpack, err)
	}
	return err
}

// Quarantine is the object directory in which Git finds what is not admitted yet; "" if
// there is none.
func (in *Incoming) Quarantine() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.dir
}

// Closed is [Repository.Closed] with the incoming objects.
func (in *Incoming) Closed(ctx context.Context, wants, haves []cluster.OID) (bool, error) {
	return in.repo.closed(ctx, wants, haves, in.Quarantine())
}

// Present returns those of oids that are in the repository.
func (in *Incoming) Present(ctx context.Context, oids []cluster.OID) ([]cluster.OID, error) {
	return in.repo.present(ctx, oids)
}

// WritePack is [Repository.WritePack] with the incoming objects. If all haves are values
// whose history is complete here, and it returns without an error, then so is that of
// wants: all that lies between was walked. It may be called by several at once, and after
// Admit.
func (in *Incoming) WritePack(ctx context.Context, wants, haves []cluster.OID, w io.Writer) error {
	// What has come is mostly just what is asked for.
	if pack := in.small(); pack != nil && in.repo.proven(wants, haves, in.Quarantine()) {
		_, err := w.Write(pack)
		return err
	}
	c := gitcmd.PackObjects(in.repo.Dir)
	if dir := in.Quarantine(); dir != "" {
		c = c.In(in.repo.Dir, dir)
	}
	return in.repo.run.Run(ctx, c, gitexec.IO{Stdin: revisions(wants, haves), Stdout: w})
}

// small returns the pack that has come, if it is small and not admitted yet.
func (in *Incoming) small() []byte {
	dir := in.Quarantine()
	if dir == "" {
		return nil
	}
	dir = filepath.Join(dir, "pack")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var pack []byte
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".pack" {
			continue
		}
		info, err := e.Info()
		if err != nil || info.Size() > maxSmall || pack != nil {
			return nil
		}
		if pack, err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil
		}
	}
	return pack
}

// Admit makes the objects the repository's, synced to disk. Their history must have been
// found complete.
func (in *Incoming) Admit() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.dir == "" {
		return nil
	}
	if err := in.repo.admit(in.dir); err != nil {
		return err
	}
	in.remove()
	return nil
}

// Remove removes what is still in quarantine.
func (in *Incoming) Remove() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.remove()
}

func (in *Incoming) remove() {
	if in.dir != "" {
		os.RemoveAll(in.dir)
		in.dir = ""
	}
}
