package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/remotehelper"
	"gitcluster/internal/sshclient"
)

// syncCommand makes a replica catch up with every acknowledged push before it
// answers. Servers of a cluster answer with one line of JSON. With --current they
// answer at once, and with an error where there is something to catch up with. With
// --nodes=HASH the answer has the cluster's nodes, unless they are those of which
// the client has the hash.
const syncCommand = "cluster-sync"

// A syncAnswer is that line.
type syncAnswer struct {
	Cluster  string          `json:"cluster"`
	Node     string          `json:"node"`
	Epoch    cluster.Epoch   `json:"epoch"`
	Version  cluster.Version `json:"version"`
	WaitedMS int64           `json:"waited_ms"`
	// All nodes, if they are not those the client knows.
	Nodes []cluster.NodeAddress `json:"nodes"`
	// Instead of a version, where the replica cannot serve:
	Error string `json:"error"`
	Hint  string `json:"hint"`
	Retry bool   `json:"retry"` // another replica may be able to
}

// A finalError is a replica's word that no other replica could do better.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// maxSyncAnswer bounds what is kept of an answer that may come from any program.
const maxSyncAnswer = 256 << 10

// sync asks the replica to synchronize and waits while it shows signs of life.
// ours is false if the server does not know the command, and so is no node of a
// cluster.
func (c *connector) sync(ctx context.Context, conn transport, r *request, a *attempt) (ours bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := c.syncLimit(r, conn, a)
	silent := time.AfterFunc(limit, func() {
		cancel(fmt.Errorf("%w to %s for %v", sshclient.ErrTimeout, syncCommand, limit))
		conn.Close() // it cannot be told to end the command either
	})
	defer silent.Stop()
	alive := func() { a.alive(); silent.Reset(limit) }

	known := c.known(a.candidate)
	start := time.Now()
	stdout := &sign{w: &head{limit: maxSyncAnswer}, onWrite: alive}
	told := &comments{log: c.log, show: r.options.Verbosity >= 1, meter: r.options.Progress, start: start}
	stderr := &sign{w: told, onWrite: alive}
	status, err := conn.Run(ctx, syncLine(r, a, known), nil, nil, stdout, stderr)
	told.end()
	if errors.Is(err, sshclient.ErrRefused) {
		return false, nil
	}
	// An answer counts even if the connection was lost right after it.
	answer, ours := parseSyncAnswer(stdout.w.(*head).kept)
	if ours {
		c.trace.say("%v: %s answered after %s: version %d, waited %d ms, error %q", a.candidate, syncCommand, since(start), answer.Version, answer.WaitedMS, answer.Error)
		if a.candidate.Learned() && answer.Cluster != a.candidate.Cluster {
			return true, errors.New("it is a node of another cluster now")
		}
		c.learn(a.candidate, conn, answer)
	}
	switch {
	case ours && answer.Error != "" && a.current:
		return true, fmt.Errorf("%w: %s", errNotCurrent, printable(answer.Error))
	case ours && answer.Error != "":
		return true, answer.failure()
	case !ours && errors.Is(err, sshclient.ErrNoStatus) && told.seen:
		return true, fmt.Errorf("%s: connection lost", syncCommand)
	case !ours && errors.Is(err, sshclient.ErrNoStatus):
		return false, errOneCommand
	case err != nil:
		return ours, fmt.Errorf("%s: %w", syncCommand, err)
	case ours && status != 0:
		return true, fmt.Errorf("%s ended with status %d", syncCommand, status)
	case ours && r.options.Verbosity > 1:
		c.log.say("%s has version %d, waited %d ms", printable(answer.Node), answer.Version, answer.WaitedMS)
	}
	return ours, nil
}

// syncLine is the command for a request.
func syncLine(r *request, a *attempt, knownNodes string) string {
	line := syncCommand
	if r.service == remotehelper.ReceivePack {
		line += " --write"
	}
	if a.current {
		line += " --current"
	}
	return line + " --nodes=" + knownNodes + " " + shellQuote(r.path)
}

// parseSyncAnswer reports whether the output of a command is the one line that
// only a node of a cluster prints.
func parseSyncAnswer(out []byte) (a syncAnswer, ours bool) {
	line, ok := bytes.CutSuffix(out, []byte("\n"))
	if !ok || bytes.IndexByte(line, '\n') >= 0 || len(line) == 0 || line[0] != '{' {
		return a, false
	}
	if json.Unmarshal(line, &a) != nil || a.Cluster == "" || a.Node == "" {
		return syncAnswer{}, false
	}
	return a, true
}

// failure is the error of an answer that has one.
func (a syncAnswer) failure() error {
	err := errors.New(printable(a.Error))
	if a.Hint != "" {
		err = cluster.WithHint(err, printable(a.Hint))
	}
	if !a.Retry {
		return &finalError{err}
	}
	return err
}
