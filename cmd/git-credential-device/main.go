// A process as short as this gains nothing from the share of its control group, which
// Go's runtime would look up in several files before anything else.

//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command git-credential-device is the credential helper by which Git acts as
// this machine instead of as a person.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/credential"
	"gitcluster/internal/version"
)

const program = "git-credential-device"

const usage = `usage: git-credential-device configure|unconfigure <https://host[:port][/path]>
       git-credential-device get|store|erase|capability

The first two tell Git, for this account, to ask or not to ask this program for
credentials of that address. Git runs the others by itself; they answer only if
PHABRICATOR_AS_DEVICE is set:

    git-credential-device configure https://git.example.com
    PHABRICATOR_AS_DEVICE=1 git fetch https://git.example.com/demo/hello.git
`

// patience is how long Git waits for an answer, at most: nobody may be there to
// interrupt it.
const patience = 5 * time.Second

var (
	errTimeout = fmt.Errorf("no answer within %v", patience)
	errUsage   = errors.New("wrong arguments")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errTimeout)
	status := exitStatus(run(ctx, os.Args[1:]))
	cancel()
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	h := &credential.Helper{Getenv: os.Getenv, Environ: os.Environ(), Now: time.Now}
	switch action := args[0]; action {
	case "get":
		return h.Get(ctx, os.Stdin, os.Stdout)
	case "store", "erase":
		credential.Discard(ctx, os.Stdin) // a token is kept nowhere
	case "capability":
		return credential.Capabilities(os.Stdout)
	case "configure", "unconfigure":
		if len(args) != 2 {
			return errUsage
		}
		if action == "configure" {
			return h.Configure(ctx, args[1])
		}
		return h.Unconfigure(ctx, args[1])
	case "--version":
		fmt.Println(program, version.String())
	case "-h", "--help":
		fmt.Print(usage)
	default:
		if strings.HasPrefix(action, "-") {
			return errUsage
		}
		// Git may learn new actions, and expects helpers to be silent on those
		// they do not know.
	}
	return nil
}

// exitStatus prints an error on one line, hint and all: it appears among the
// lines of a Git command that may run with nobody to read more than its log.
func exitStatus(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	line := fmt.Sprintf("%s: %v", program, err)
	if hint := cluster.Hint(err); hint != "" {
		line += " (" + hint + ")"
	}
	fmt.Fprintln(os.Stderr, strings.ReplaceAll(line, "\n", "; "))
	return 1
}
