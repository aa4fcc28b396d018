package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// reap runs a server and takes in the processes whose parents do not wait for them,
// until the server ends. sshd's monitor leaves that to others when a client has
// closed the connection, and the CPU time of Git below it would be in no account.
func reap(args []string) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a reaper: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server, err := new(gitexec.Runner).Start(ctx, gitcmd.Command{Args: args, Env: os.Environ()}, gitexec.IO{Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		switch pid, err := syscall.Wait4(-1, &status, 0, nil); {
		case err == syscall.EINTR:
		case err != nil:
			return err
		case pid == server.PID() && ctx.Err() == nil:
			return fmt.Errorf("%s ended with status %d", args[0], status.ExitStatus())
		case pid == server.PID():
			return nil
		}
	}
}
