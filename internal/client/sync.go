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
// answers. Servers of a cluster answer with one line of JSON.
const syncCommand = "cluster-sync"

// A syncAnswer is that line.
type syncAnswer struct {
	Cluster  string          `json:"cluster"`
	Node     string          `json:"node"`
	Epoch    cluster.Epoch   `json:"epoch"`
	Version  cluster.Version `json:"version"`
	WaitedMS int64           `json:"waited_ms"`
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
const maxSyncAnswer = 64 << 10

// sync asks the replica to synchronize and waits while it shows signs of life.
// ours is false if the server does not know the command, and so is no node of a
// cluster.
func (c *connector) sync(ctx context.Context, conn *sshclient.Conn, r *request) (ours bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := orDefault(c.Limits.Sync, 15*time.Second)
	silent := time.AfterFunc(limit, func() {
		cancel(fmt.Errorf("%w to %s for %v", sshclient.ErrTimeout, syncCommand, limit))
		conn.Close() // it cannot be told to end the command either
	})
	defer silent.Stop()
	alive := func() { silent.Reset(limit) }

	command := syncCommand
	if r.service == remotehelper.ReceivePack {
		command += " --write"
	}
	stdout := &sign{w: &head{limit: maxSyncAnswer}, onWrite: alive}
	stderr := &sign{w: &comments{log: c.log, show: r.options.Verbosity >= 1}, onWrite: alive}
	status, err := conn.Run(ctx, command+" "+shellQuote(r.path), nil, nil, stdout, stderr)
	if errors.Is(err, sshclient.ErrRefused) {
		return false, nil
	}
	// An answer counts even if the connection was lost right after it.
	answer, ours := parseSyncAnswer(stdout.w.(*head).kept)
	switch {
	case ours && answer.Error != "":
		return true, answer.failure()
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
