// Command git-cluster-hook is what Git runs as a hook of a push on a node: it hands
// the hook over to the node and waits. It is a program of its own because each push
// starts it twice, and a small one starts ten times as fast as git-cluster.
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
	"gitcluster/internal/localsocket"
	"gitcluster/internal/version"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("git-cluster-hook", version.String())
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, filepath.Base(os.Args[0])))
}

// run returns the exit status that the node gives the hook.
func run(ctx context.Context, name string) int {
	request, socket, err := localsocket.HookFromEnv(name, os.Environ())
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
