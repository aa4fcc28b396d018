package peer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"gitcluster/internal/cluster"
)

// CommitCommand is the command line by which a node hands a push to the node that
// keeps winning the race for a repository: a line of JSON that asks, and one that
// answers.
const CommitCommand = "cluster-peer-commit"

// A Commit is a push that another node has received. Its objects are there
// already, as a copy.
type Commit struct {
	Repo     cluster.RepoID      `json:"repo"`
	ID       string              `json:"push"`
	Actor    cluster.Identity    `json:"actor"`
	Updates  []cluster.RefUpdate `json:"updates"`
	Atomic   bool                `json:"atomic,omitempty"`
	Copies   int                 `json:"copies,omitempty"`
	Degraded bool                `json:"degraded,omitempty"`
}

type committed struct {
	Results []cluster.RefResult `json:"results,omitempty"`
	// Error is why nothing was tried; what was is in Results, or not known.
	Error   string `json:"error,omitempty"`
	Unclear bool   `json:"unclear,omitempty"`
}

var (
	// ErrNotTried: the other node has certainly not committed the push.
	ErrNotTried = errors.New("the other node did not try")
	// ErrUnclear: it may have, or may yet.
	ErrUnclear = errors.New("the other node's answer is unknown")
)

// Commit has another node commit a push. An error is either [ErrNotTried] or
// [ErrUnclear].
func (p *Peers) Commit(ctx context.Context, on cluster.DeviceName, c Commit) ([]cluster.RefResult, error) {
	var said tail
	s, err := p.open(ctx, on, CommitCommand, &said)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotTried, err)
	}
	defer s.Close()
	var answer committed
	if err = json.NewEncoder(s).Encode(c); err == nil {
		err = readLine(bufio.NewReader(s), &answer)
	}
	if err != nil {
		if status, _ := s.Wait(); status > 0 && older(said.String()) {
			return nil, fmt.Errorf("%w: %w", ErrNotTried, errOlder)
		}
		return nil, fmt.Errorf("%w: %w", ErrUnclear, err)
	}
	return answer.outcome(c)
}

// outcome is what an answer means. Only one that says so is a push that was not
// tried.
func (a committed) outcome(c Commit) ([]cluster.RefResult, error) {
	switch {
	case a.Error != "" && !a.Unclear:
		return nil, fmt.Errorf("%w: %s", ErrNotTried, a.Error)
	case a.Error != "" || a.Unclear:
		return nil, fmt.Errorf("%w: %s", ErrUnclear, a.Error)
	case len(a.Results) != len(c.Updates):
		return nil, fmt.Errorf("%w: it tells of %d refs and was asked for %d", ErrUnclear, len(a.Results), len(c.Updates))
	}
	return a.Results, nil
}

// A Committer commits pushes that other nodes have received. Its errors are as
// those of [Peers.Commit].
type Committer interface {
	CommitFor(ctx context.Context, c Commit) ([]cluster.RefResult, error)
}

// ServeCommit answers another node.
func ServeCommit(ctx context.Context, by Committer, r io.Reader, w io.Writer) error {
	var c Commit
	if err := readLine(bufio.NewReader(r), &c); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return json.NewEncoder(w).Encode(committed{Error: err.Error()})
	}
	results, err := by.CommitFor(ctx, c)
	answer := committed{Results: results}
	if err != nil {
		answer = committed{Error: err.Error(), Unclear: !errors.Is(err, ErrNotTried)}
	}
	return json.NewEncoder(w).Encode(answer)
}

func (c Commit) check() error {
	if _, err := cluster.ParseRepoID(string(c.Repo)); err != nil {
		return err
	}
	if c.ID == "" || len(c.Updates) == 0 || len(c.Updates) > maxQuestion {
		return fmt.Errorf("a push %q of %d refs", c.ID, len(c.Updates))
	}
	for _, u := range c.Updates {
		for _, value := range []cluster.OID{u.Old, u.New} {
			// They become lines of what Git reads.
			if _, err := cluster.ParseOID(string(value)); err != nil && value != "" {
				return err
			}
		}
	}
	return nil
}
