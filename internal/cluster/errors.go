package cluster

import "errors"

var (
	// ErrBadRepoName: the text cannot be a repository's name.
	ErrBadRepoName = errors.New("bad repository name")
	// ErrNotFound: there is no such thing, or the asker may not know of it.
	ErrNotFound = errors.New("not found")
	// ErrExists: a thing of that name is there already.
	ErrExists = errors.New("already exists")
	// ErrDenied: the asker may know of the thing but not do this to it.
	ErrDenied = errors.New("permission denied")
	// ErrUnavailable: the journal could not be reached in time, so nothing can
	// be promised; trying again later is safe.
	ErrUnavailable = errors.New("journal unavailable")
	// ErrNoReplica: no reachable replica holds the objects that are needed.
	ErrNoReplica = errors.New("no reachable replica has the objects")
	// ErrFenced: the replica's disk contradicts the journal, so it serves
	// nothing until it has been repaired.
	ErrFenced = errors.New("replica is fenced")
	// ErrBehind: the replica does not show the newest version yet.
	ErrBehind = errors.New("replica is behind")
	// ErrBusy: the node has as much to do as it may; trying again later, or on
	// another node, is safe.
	ErrBusy = errors.New("node is busy")
	// ErrDraining: the node takes no pushes any more; another does.
	ErrDraining = errors.New("node takes no pushes")
	// ErrLocked: an operator holds the repository's writes.
	ErrLocked = errors.New("repository is locked")
	// ErrStopping: the node is shutting down.
	ErrStopping = errors.New("node is stopping")
)

// A HintError carries a second line for people, "hint: …", apart from the chain of
// facts it wraps.
type HintError struct {
	Err  error
	Hint string
}

func (e *HintError) Error() string { return e.Err.Error() }
func (e *HintError) Unwrap() error { return e.Err }

// WithHint returns err with a line that says what the reader can do about it.
func WithHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &HintError{Err: err, Hint: hint}
}

// Hint returns the hint nearest to the surface of err's chain, or "".
func Hint(err error) string {
	var h *HintError
	if errors.As(err, &h) {
		return h.Hint
	}
	return ""
}
