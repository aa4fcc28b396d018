package engine

import (
	"errors"

	"gitcluster/internal/repository"
)

// errFaults: Git refuses some updates of the batch, which are noted in their
// pushes; the rest is to be tried again.
var errFaults = errors.New("git refuses some updates")

// prepare lets Git lock the refs of a batch. Git fails as a whole where one ref is
// bad, so on failure the bad ones are looked for.
func (e *Engine) prepare(r *replica, b *batch) (*repository.Transaction, error) {
	if len(b.deferred) > 0 {
		faults, err := r.repo.CheckValues(e.ctx, b.deferred)
		if err != nil {
			return nil, err
		}
		if b.note(faults) {
			return nil, errFaults
		}
	}
	var err error
	for again := false; err == nil; again = true {
		var tx *repository.Transaction
		if tx, err = r.repo.Begin(e.ctx, len(b.prepared)); err != nil {
			return nil, err
		}
		if err = tx.Prepare(b.prepared); err == nil {
			return tx, nil
		}
		tx.Abort()
		if again {
			break
		}
		// A Git process that was killed may have left its locks; nobody else
		// writes here.
		if err = r.repo.RemoveLocks(); err != nil {
			return nil, err
		}
	}
	if err := e.compareDisk(r, b); err != nil {
		return nil, err
	}
	faults, faultErr := e.findFaults(r, b)
	if faultErr != nil {
		return nil, faultErr
	}
	if b.note(faults) {
		return nil, errFaults
	}
	return nil, err
}

// compareDisk fences the replica if its refs are not those that the batch was
// judged against.
func (e *Engine) compareDisk(r *replica, b *batch) error {
	disk, err := r.repo.LoadRefs(e.ctx)
	if err != nil {
		return err
	}
	b.undo()
	expected := r.table.Digest()
	b.redo()
	if disk.Digest() != expected {
		return e.fenceOff(r, "its refs on disk have been changed from outside")
	}
	return nil
}
