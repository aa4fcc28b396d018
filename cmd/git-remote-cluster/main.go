// Command git-remote-cluster is the remote helper that Git runs for addresses
// that begin with cluster:: or cluster://.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"gitcluster/internal/client"
	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/remotehelper"
	"gitcluster/internal/version"
)

const usage = `usage: git-remote-cluster <remote> <address>

Git runs this program by itself, for example in

    git clone cluster::demo/hello            a repository of the default cluster
    git clone cluster::name:demo/hello       of the cluster of that name
    git clone cluster://host:port/demo/hello of these hosts, without configuration
`

func main() {
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case "--version":
			fmt.Println(client.Program, version.String())
			return
		case "-h", "--help":
			fmt.Print(usage)
			return
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(exitStatus(client.Run(ctx, client.Params{
		Args:      os.Args[1:],
		In:        os.Stdin,
		Out:       os.Stdout,
		Err:       os.Stderr,
		Getenv:    os.Getenv,
		GitConfig: gitConfig,
	})))
}

// gitConfig sees the repository Git works on, and its "-c" settings, by the
// environment Git gave us.
func gitConfig(ctx context.Context, args ...string) ([]byte, error) {
	return new(gitexec.Runner).Output(ctx, gitcmd.Command{
		Args: append([]string{"git", "config"}, args...),
		Env:  os.Environ(),
	}, nil)
}

// exitStatus prints what nobody else has said.
func exitStatus(err error) int {
	var status *remotehelper.StatusError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return status.Status
	case errors.Is(err, remotehelper.ErrGitGone), errors.Is(err, context.Canceled):
		return 1
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", client.Program, err)
	if hint := cluster.Hint(err); hint != "" {
		fmt.Fprintf(os.Stderr, "hint: %s\n", hint)
	}
	return 1
}
