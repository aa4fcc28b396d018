// Command git-cluster is a node of a cluster of Git repositories and the
// commands that administer it: `git cluster …`. Under the name of a Git hook it is that
// hook of a push in progress.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"gitcluster/internal/cluster"
	"gitcluster/internal/localsocket"
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch name := filepath.Base(os.Args[0]); name {
	case localsocket.PreReceive, localsocket.ProcReceive:
		return report(hook(ctx, name))
	}
	return report(rootCommand().ExecuteContext(ctx))
}

// An exitStatus ends the program with a status and nothing more to say.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// report prints an error as one line, and a hint as another, and gives the
// exit status.
func report(err error) int {
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	fmt.Fprintln(os.Stderr, "git-cluster:", err)
	if hint := cluster.Hint(err); hint != "" {
		fmt.Fprintln(os.Stderr, "hint:", hint)
	}
	return 1
}

// hook hands a Git hook over to the node that started its push.
func hook(ctx context.Context, name string) error {
	request, socket, err := localsocket.HookFromEnv(name, os.Environ())
	if err != nil {
		return err
	}
	status, err := localsocket.RunHook(ctx, socket, request, os.Stdin, os.Stdout, os.Stderr)
	if err == nil && status != 0 {
		err = exitStatus(status)
	}
	return err
}
