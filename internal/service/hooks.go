package service

import (
	"fmt"
	"os"
	"path/filepath"

	"gitcluster/internal/localsocket"
	"gitcluster/internal/procreceive"
)

// The folders of hooks in [Service.Hooks].
const (
	hooksAll    = "all"    // pre-receive, too
	hooksFew    = "few"    // proc-receive alone
	hooksPushes = "pushes" // for each push in progress a link to one of these
)

// InstallHooks makes dir what [Service.Hooks] names: folders whose hooks are program, a
// git-cluster-hook. What pushes of a former life have left there is removed.
func InstallHooks(dir, program string) error {
	if err := os.RemoveAll(filepath.Join(dir, hooksPushes)); err != nil {
		return err
	}
	for _, link := range []string{
		localsocket.PackObjects,
		filepath.Join(hooksAll, localsocket.PreReceive),
		filepath.Join(hooksAll, localsocket.ProcReceive),
		filepath.Join(hooksFew, localsocket.ProcReceive),
	} {
		if err := install(filepath.Join(dir, link), program); err != nil {
			return err
		}
	}
	return os.Mkdir(filepath.Join(dir, hooksPushes), 0o700)
}

func install(link, program string) error {
	if there, err := os.Readlink(link); err == nil && there == program {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
		return err
	}
	if err := os.RemoveAll(link); err != nil {
		return err
	}
	return os.Symlink(program, link)
}

// hooks returns the folder in which receive-pack is to look for the hooks of p. Policy
// needs pre-receive, which sees the commands while the objects are in quarantine; so
// does a signed push, of which only Git can say whether it is well signed. That a push
// is signed shows when its commands come: heard is to be told then. All others are
// spared a process.
func (p *push) hooks() (dir string, heard func(procreceive.Commands) error, remove func(), err error) {
	all := filepath.Join(p.service.Hooks, hooksAll)
	if p.repo.DenyDeletes || p.repo.DenyNonFF {
		return all, p.heard, func() {}, nil
	}
	dir = filepath.Join(p.service.Hooks, hooksPushes, p.id)
	if err := os.Symlink(filepath.Join("..", hooksFew), dir); err != nil {
		return "", nil, nil, fmt.Errorf("choose the push's hooks: %w", err)
	}
	heard = func(c procreceive.Commands) error {
		if c.Certificate {
			// Git looks for its hooks after it has read the commands, and it has
			// not yet been given the last of them.
			next := dir + ".next"
			defer os.Remove(next)
			if err := os.Symlink(filepath.Join("..", hooksAll), next); err != nil {
				return fmt.Errorf("choose the push's hooks: %w", err)
			}
			if err := os.Rename(next, dir); err != nil {
				return fmt.Errorf("choose the push's hooks: %w", err)
			}
		}
		return p.heard(c)
	}
	return dir, heard, func() { os.Remove(dir) }, nil
}

// heard notes how many refs the push names.
func (p *push) heard(c procreceive.Commands) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = c.Count
	return nil
}
