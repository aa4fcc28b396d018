package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/durable"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// An incarnation names a disk with what it holds, from one start of the node to
// the next; the journal knows the newest. A disk that bears another was restored
// from a backup, or belongs to another node, and may lack objects that this node is
// counted for.

// incarnate gives the disk its next incarnation. If it does not bear the last one,
// every replica on it is marked to be compared with the journal before it serves
// or counts.
func (n *Node) incarnate(ctx context.Context, store *repository.Store) (string, error) {
	// Beside the replicas, which may be on a disk of their own.
	path := n.dir.path("repositories", "incarnation")
	mine, err := readWords(path)
	if errors.Is(err, fs.ErrNotExist) {
		mine, err = readWords(n.dir.path("incarnation"))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	last, err := n.journal.Incarnation(ctx, n.self.Name)
	if err != nil {
		return "", err
	}
	if !slices.Contains(mine, last) {
		if err := n.doubt(store); err != nil {
			return "", err
		}
		// What the last disk showed is not what this one does.
		if err := n.journal.ForgetReports(ctx, n.self.Name); err != nil {
			return "", err
		}
	}
	// A crash between the two writes leaves both names on the disk, and one of
	// them in the journal.
	next := journal.NewID()
	if err := durable.WriteFile(path, []byte(last+" "+next+"\n"), 0o600); err != nil {
		return "", err
	}
	if err := n.journal.ChangeIncarnation(ctx, n.self.Name, last, next); err != nil {
		if errors.Is(err, cluster.ErrExists) {
			err = n.errTwin()
		}
		return "", err
	}
	return next, durable.WriteFile(path, []byte(next+"\n"), 0o600)
}

// Two processes with one identity, of which one runs on a copy of the other's
// directory, would each take copies in the name of both. Of the two that one goes on
// that answers where the node is known to be: another does not start beside it. If it
// gives no answer, whoever started last has given the disk its incarnation, and the other
// ends when it hears of that.

// alone returns an error if another process answers as this node, at the address
// the cluster knows. This one does not listen yet.
func (n *Node) alone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, twinPatience)
	defer cancel()
	c, err := n.peers.Open(ctx, n.self.Name, admin.Command)
	if err != nil {
		return nil
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	// Whether it says how many pushes it has does not matter, but OpenSSH's server
	// may be in front, which answers for nobody.
	var pushes int
	if err := admin.Ask(c, "node.pushes", struct{}{}, &pushes); err != nil {
		return nil
	}
	return n.errTwin()
}

// twinPatience is how long a start waits for somebody who should not be there.
const twinPatience = 3 * time.Second

// watchTwin ends with an error when the journal has another incarnation than mine.
func (n *Node) watchTwin(ctx context.Context, mine string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := n.journal.WatchIncarnation(ctx, n.self.Name, func(now string) {
		if now != mine {
			cancel(n.errTwin())
		}
	})
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (n *Node) errTwin() error {
	return cluster.WithHint(fmt.Errorf("another process runs as node %q", n.self.Name),
		"one of the two is on a copy of the other's data directory: end that one, and have its machine join with an empty directory under another name")
}

func (n *Node) doubt(store *repository.Store) error {
	ids, err := store.List()
	if err != nil {
		return err
	}
	n.log.Warn("this disk is not the one the node ran on last; its replicas are compared with the journal before they serve", "replicas", len(ids))
	for _, id := range ids {
		repo, err := store.Open(id)
		if errors.Is(err, cluster.ErrNotFound) {
			continue // a folder that is damaged; it is doubted when it is mended
		}
		if err != nil {
			return err
		}
		if err := repo.SetDoubt("the disk was exchanged, or restored from a backup"); err != nil {
			return err
		}
	}
	return nil
}

func readWords(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	return strings.Fields(string(data)), err
}
