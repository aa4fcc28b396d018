package service

import (
	"os"
	"path/filepath"

	"gitcluster/internal/localsocket"
)

// InstallHooks makes dir what [Options.Hooks] names: a folder with the hooks of Git's own
// receive-pack and upload-pack, which are program, a git-cluster-hook.
func InstallHooks(dir, program string) error {
	for _, link := range []string{
		localsocket.PackObjects,
		filepath.Join(hooksOfPush, localsocket.PreReceive),
		filepath.Join(hooksOfPush, localsocket.ProcReceive),
	} {
		if err := install(filepath.Join(dir, link), program); err != nil {
			return err
		}
	}
	return nil
}

// hooksOfPush is the folder of a receive-pack's hooks in [Options.Hooks].
const hooksOfPush = "all"

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
