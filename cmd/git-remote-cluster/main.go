// A process as short as this gains nothing from the share of its control group, which
// Go's runtime would look up in several files before anything else.

//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command git-remote-cluster is the remote helper that Git runs for addresses
// that begin with cluster:: or cluster://.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"gitcluster/internal/client"
	"gitcluster/internal/cluster"
	"gitcluster/internal/nodecache"
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
	// Git gives the remote's name and mostly its address, too. Whoever runs this by
	// hand would otherwise wait at a prompt that is none.
	switch args := os.Args[1:]; {
	case len(args) == 1 && args[0] == "--version":
		fmt.Println(client.Program, version.String())
		return
	case len(args) == 1 && (args[0] == "-h" || args[0] == "--help"):
		fmt.Print(usage)
		return
	case len(args) == 0, len(args) > 2, len(args) == 1 && strings.HasPrefix(args[0], "-"):
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	os.Exit(exitStatus(client.Run(context.Background(), client.Params{
		Args:   os.Args[1:],
		In:     os.Stdin,
		Out:    os.Stdout,
		Err:    os.Stderr,
		Getenv: os.Getenv,
		Watch: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		},
		GitConfig: client.GitConfig,
		Cache:     nodecache.Open(),
		LookupSRV: net.DefaultResolver.LookupSRV,
	})))
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
