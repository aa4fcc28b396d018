// Package shell runs the command lines that clients send over SSH: Git's
// services, the synchronization that a client asks for first, the
// administration, and what nodes ask of each other.
//
// Entry point: [Shell.ServeSession], the [session.Handler] of both the
// built-in SSH server and `git cluster shell` behind OpenSSH.
//
// It promises that a command line is never given to a system shell, and that
// whatever it does not know is answered by the list of what it does.
package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"gitcluster/internal/access"
	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/conduit"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/peer"
	"gitcluster/internal/service"
	"gitcluster/internal/session"
)

// A Shell runs commands on one node.
type Shell struct {
	Cluster string // the cluster's id
	Device  cluster.DeviceName
	Service *service.Service
	Admin   *admin.Server
	Conduit *conduit.Conduit
	Engine  Replicas
	Rules   func() *access.Directory
	Log     *slog.Logger
}

// Replicas are what other nodes want of this one.
type Replicas interface {
	peer.PackWriter
	peer.RefWriter
	peer.Taker
	peer.Committer
}

// AdminCommand takes one administrative request on standard input.
const AdminCommand = admin.Command

// ConduitCommand calls a method of the Conduit API.
const ConduitCommand = "conduit"

// commands lists what the welcome shows.
var commands = []struct{ usage, what string }{
	{"git-upload-pack REPO", "fetch"},
	{"git-receive-pack REPO", "push"},
	{"git-upload-archive REPO", "archive"},
	{SyncCommand + " REPO", "bring this node's replica up to date"},
	{NodesCommand, "list the cluster's nodes"},
	{ConduitCommand + " METHOD", "Phabricator's API: parameters as JSON on standard input"},
	{AdminCommand, "administration: use `git cluster …`"},
}

// ServeSession runs one command.
func (sh *Shell) ServeSession(ctx context.Context, s *session.Session) int {
	words, err := split(s.Command)
	if err != nil {
		return sh.fail(s, err)
	}
	id := s.Identity
	// A device may have been disabled since its connection was made.
	if err := sh.Rules().Admit(id, s.Remote.Addr()); err != nil {
		sh.Log.Warn("session refused", "identity", id.String(), "remote", s.Remote.String(), "error", err)
		return sh.fail(s, cluster.ErrDenied)
	}
	if len(words) > 0 && strings.HasPrefix(words[0], "@") {
		user, err := cluster.ParseUserName(words[0][1:])
		if err == nil {
			id, err = sh.Rules().ActAs(id, user)
		}
		if err != nil {
			sh.Log.Warn("refused to act as a user", "identity", s.Identity.String(), "error", err)
			return sh.fail(s, fmt.Errorf("%s may not act as %q: %w", s.Identity, words[0], cluster.ErrDenied))
		}
		words = words[1:]
	}
	if len(words) >= 2 && words[0] == "git" {
		words = append([]string{"git-" + words[1]}, words[2:]...)
	}
	if len(words) == 0 {
		return sh.welcome(s, id)
	}
	name, args := words[0], words[1:]
	switch name {
	case "git-upload-pack", "git-receive-pack", "git-upload-archive":
		return sh.git(ctx, s, id, name, args)
	case SyncCommand:
		return sh.sync(ctx, s, id, args)
	case NodesCommand:
		return sh.nodes(s, id, args)
	case AdminCommand:
		return sh.Admin.Serve(ctx, id, s.Stdin, s.Stdout, s.Stderr)
	case peer.CopyCommand, peer.CommitCommand:
		return sh.store(ctx, s, id, name)
	case ConduitCommand:
		if len(args) != 1 {
			return sh.fail(s, fmt.Errorf("usage: %s METHOD, with the parameters as JSON on standard input", ConduitCommand))
		}
		return sh.Conduit.ServeCommand(ctx, id, s, args[0])
	case peer.PackCommand, peer.RefsCommand:
		return sh.peer(ctx, s, id, name, args)
	}
	fmt.Fprintf(s.Stderr, "# unknown command %q\n", clip(name))
	return sh.welcome(s, id)
}

func (sh *Shell) welcome(s *session.Session, id cluster.Identity) int {
	var b strings.Builder
	fmt.Fprintf(&b, "Welcome to git-cluster node %q. You are logged in as %s.\n\n", sh.Device, id)
	b.WriteString("No shell is provided; the supported commands are:\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "    %-32s %s\n", c.usage, c.what)
	}
	io.WriteString(s.Stderr, b.String())
	return 1
}

func (sh *Shell) git(ctx context.Context, s *session.Session, id cluster.Identity, name string, args []string) int {
	if len(args) != 1 {
		return sh.fail(s, fmt.Errorf("usage: %s REPOSITORY", name))
	}
	repo, err := cluster.ParseRepoName(args[0])
	if err != nil {
		return sh.fail(s, err)
	}
	q := service.Request{Identity: id, Repo: repo, Front: "ssh", Remote: s.Remote, Protocol: s.Env["GIT_PROTOCOL"], Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr}
	q.Tell = func(line string) { fmt.Fprintf(s.Stderr, "# %s\n", line) }
	if s.Env["GIT_CLUSTER_STALE_OK"] == "1" {
		q.Freshness = cluster.StaleOK
	}
	if q.Format, err = cluster.ParseObjectFormat(s.Env["GIT_CLUSTER_OBJECT_FORMAT"]); err != nil {
		return sh.fail(s, err)
	}
	switch name {
	case "git-upload-pack":
		err = sh.Service.UploadPack(ctx, q)
	case "git-upload-archive":
		err = sh.Service.UploadArchive(ctx, q)
	default:
		err = sh.Service.ReceivePack(ctx, q)
	}
	var exit *gitexec.ExitError
	if errors.As(err, &exit) {
		return gitexec.Status(err) // Git has said on stderr what it had to say
	}
	if err != nil {
		return sh.fail(s, err)
	}
	return 0
}

// peer serves another node's catch-up. Only nodes may ask: the objects and refs of
// every repository can be had this way, whatever is granted on it.
func (sh *Shell) peer(ctx context.Context, s *session.Session, id cluster.Identity, name string, args []string) int {
	if !sh.isNode(id) || len(args) != 1 {
		return sh.fail(s, fmt.Errorf("%s: %w", name, cluster.ErrDenied))
	}
	repo, err := cluster.ParseRepoID(args[0])
	switch {
	case err != nil:
	case name == peer.RefsCommand:
		err = peer.ServeRefs(ctx, sh.Engine, repo, s.Stdout)
	default:
		err = peer.ServePack(ctx, sh.Engine, repo, s.Stdin, s.Stdout)
	}
	if err != nil {
		return sh.fail(s, err)
	}
	return 0
}

// store takes a copy of a push that another node has received, or commits it.
// Only nodes may ask: they have checked what the pusher may do.
func (sh *Shell) store(ctx context.Context, s *session.Session, id cluster.Identity, name string) int {
	if !sh.isNode(id) {
		return sh.fail(s, fmt.Errorf("%s: %w", name, cluster.ErrDenied))
	}
	serve := func() error { return peer.ServeCopy(ctx, sh.Engine, s.Stdin, s.Stdout) }
	if name == peer.CommitCommand {
		serve = func() error { return peer.ServeCommit(ctx, sh.Engine, s.Stdin, s.Stdout) }
	}
	if err := serve(); err != nil {
		return sh.fail(s, err)
	}
	return 0
}

// isNode reports whether another node asks, for itself.
func (sh *Shell) isNode(id cluster.Identity) bool {
	device, ok := sh.Rules().Device(id.Device)
	return ok && device.Node && id.User == ""
}

func (sh *Shell) fail(s *session.Session, err error) int {
	fmt.Fprintf(s.Stderr, "# %v\n", err)
	if hint := cluster.Hint(err); hint != "" {
		fmt.Fprintf(s.Stderr, "# hint: %s\n", hint)
	}
	if retryable(err) {
		return statusRetry
	}
	return 1
}

// statusRetry is the exit status of a command for which another node may do better:
// EX_TEMPFAIL of sysexits.h. It is for clients that do not ask in terms of
// [SyncCommand].
const statusRetry = 75

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}
