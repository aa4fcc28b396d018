package cluster

import "fmt"

// A Version counts the journal entries of a repository; 0 is the empty
// repository. Versions of one epoch never go back.
type Version uint64

// An Epoch counts the restores of a repository. Versions of different epochs do
// not compare.
type Epoch uint64

// A Position is a point in a repository's journal together with the digest of
// all refs at that point.
type Position struct {
	Epoch   Epoch   `json:"epoch"`
	Version Version `json:"version"`
	Digest  Digest  `json:"digest"`
}

// Reached reports whether a replica at p shows everything up to q. Of one version
// there is one set of refs: another is that of a journal that has been put back.
func (p Position) Reached(q Position) bool {
	return p.Epoch == q.Epoch && (p.Version > q.Version || p.Version == q.Version && p.Digest == q.Digest)
}

func (p Position) String() string {
	return fmt.Sprintf("%d.%d", p.Epoch, p.Version)
}
