// A process as short as this gains nothing from the share of its control group, which
// Go's runtime would look up in several files before anything else.

//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command git-cluster-hook is what Git runs as a hook of a push on a node, and where
// several fetch at once instead of pack-objects: it hands that over to the node and
// waits. It is a program of its own because each push starts it, and a small one
// starts ten times as fast as git-cluster.
//
// It is no command for people. Its name, the last part of how it was called, is the
// hook's.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/localsocket"
	"gitcluster/internal/version"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("git-cluster-hook", version.String())
		return
	}
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	if name == localsocket.PackObjects && len(args) > 0 && !gitcmd.CanShare(args) {
		// Something that this release does not know: Git is to do it by itself.
		fmt.Fprintln(os.Stderr, "git-cluster:", become(args))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, name, args))
}

// become has this process run a command from now on. It returns only if that fails.
func become(args []string) (err error) {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		err = syscall.Exec(filepath.Join(dir, args[0]), args, os.Environ())
	}
	return fmt.Errorf("run %s: %w", args[0], err)
}

// run returns the exit status that the node gives the hook.
func run(ctx context.Context, name string, args []string) int {
	request, socket, err := localsocket.HookFromEnv(name, args, os.Environ())
	if err == nil {
		var status int
		if status, err = localsocket.RunHook(ctx, socket, request, os.Stdin, os.Stdout, os.Stderr); err == nil {
			return status
		}
	}
	fmt.Fprintln(os.Stderr, "git-cluster:", err)
	if hint := cluster.Hint(err); hint != "" {
		fmt.Fprintln(os.Stderr, "hint:", hint)
	}
	return 1
}
