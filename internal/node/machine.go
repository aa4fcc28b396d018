package node

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/metrics"
)

// gitProcesses is how many Git processes may serve clients at once. Most wait
// for a disk or a network, and an idle one takes little memory; a clone that must
// be compressed takes a processor.
func gitProcesses() int { return max(16, 4*runtime.NumCPU()) }

// maxWaiting is how many requests may wait for their turn. Each holds a
// connection and little else.
const maxWaiting = 4096

// load is what the node has on its hands.
func (n *Node) load() metrics.Load {
	lag := n.engine.Lag()
	running, waiting := n.turns.Load()
	return metrics.Load{Replicas: lag.Replicas, Behind: lag.Behind, Versions: lag.Versions, Running: running, Waiting: waiting, Shared: n.packs.Shared(), Listed: n.listings.Answers()}
}

// checkMachine refuses Windows, and a Git that lacks what the engine relies on:
// proc-receive hooks (2.29), update-ref transactions (2.27), core.fsync (2.36).
func checkMachine(ctx context.Context) error {
	if runtime.GOOS == "windows" {
		return cluster.WithHint(errors.New("a node does not run on Windows"), "run it on Linux or macOS; here `git cluster use ADDRESS` sets up a user's account")
	}
	out, err := new(gitexec.Runner).Output(ctx, gitcmd.Version(), nil)
	if err != nil {
		return cluster.WithHint(fmt.Errorf("run git: %w", err), "install Git 2.36 or newer")
	}
	words := strings.Fields(string(out)) // "git version 2.39.5 (Apple Git-154)"
	if len(words) >= 3 {
		parts := strings.SplitN(words[2], ".", 3)
		if len(parts) >= 2 {
			major, err1 := strconv.Atoi(parts[0])
			minor, err2 := strconv.Atoi(parts[1])
			if err1 == nil && err2 == nil && (major > 2 || major == 2 && minor >= 36) {
				return nil
			}
		}
	}
	return cluster.WithHint(fmt.Errorf("%s is too old", strings.TrimSpace(string(out))), "install Git 2.36 or newer")
}
