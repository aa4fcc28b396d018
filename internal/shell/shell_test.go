package shell

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/conduit"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/peer"
	"gitcluster/internal/session"
)

// packs answers every question with the same pack.
type packs struct {
	Replicas
	asked int
}

func (p *packs) WritePack(_ context.Context, _ cluster.RepoID, _, _ []cluster.OID, w io.Writer) error {
	p.asked++
	_, err := io.WriteString(w, "PACK")
	return err
}

// key is the line of a new device key.
func key(t *testing.T) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

const here = "127.0.0.1:2222"

func newShell(t *testing.T) (*Shell, *packs) {
	t.Helper()
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	p := &packs{}
	rules := access.NewDirectory([]cluster.Device{
		{Name: "node2", PublicKey: key(t), Node: true, Enabled: true, Trusted: true},
		{Name: "off", PublicKey: key(t), Node: true, Trusted: true},
		{Name: "builder", PublicKey: key(t), Enabled: true, Trusted: true, ActsAs: true},
		{Name: "laptop", PublicKey: key(t), Enabled: true},
	}, []cluster.User{{Name: "alice"}}, nil, trusted)
	if p := rules.Problems(); len(p) > 0 {
		t.Fatal(p)
	}
	return &Shell{Cluster: "c1", Device: "node1", Engine: p, Rules: func() *access.Directory { return rules }, Log: slog.New(slog.DiscardHandler)}, p
}

func serve(sh *Shell, id cluster.Identity, from, command, stdin string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	s := &session.Session{Identity: id, Command: command, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs}
	if from != "" {
		s.Remote = netip.MustParseAddrPort(from)
	}
	status = sh.ServeSession(context.Background(), s)
	return status, out.String(), errs.String()
}

func TestWelcome(t *testing.T) {
	sh, _ := newShell(t)
	for _, c := range []struct {
		id      cluster.Identity
		command string
		want    string
	}{
		{cluster.Identity{User: "alice"}, "", "logged in as alice"},
		{cluster.Identity{Device: "builder"}, "  ", "logged in as device/builder"},
		{cluster.Identity{User: "alice"}, "git", `unknown command "git"`},
		{cluster.Identity{User: "alice"}, "rm -rf /", `unknown command "rm"`},
		{cluster.Identity{User: "alice"}, "git-shell x", `unknown command "git-shell"`},
		{cluster.Identity{User: "alice"}, strings.Repeat("x", 10_000), "unknown command"},
		{cluster.Identity{User: "alice"}, "'\x1b[2J\x00'", "unknown command"},
	} {
		status, stdout, stderr := serve(sh, c.id, here, c.command, "")
		if status != 1 || stdout != "" || !strings.Contains(stderr, c.want) || !strings.Contains(stderr, `"node1"`) {
			t.Errorf("%.40q: status %d, stdout %q, stderr %q", c.command, status, stdout, stderr)
		}
		for _, known := range commands {
			if !strings.Contains(stderr, known.usage) {
				t.Errorf("%.40q: it does not name %q", c.command, known.usage)
			}
		}
		if strings.ContainsAny(stderr, "\x1b\x00") || len(stderr) > 2000 {
			t.Errorf("%.40q: what it says is not fit for a terminal: %q", c.command, stderr)
		}
	}
}

func TestBadCommandLines(t *testing.T) {
	sh, p := newShell(t)
	for _, command := range []string{
		"git-upload-pack", "git-upload-pack a b", "git-upload-pack --strict a", "git-upload-pack '../x'", "git-upload-pack 'a", "git-receive-pack ''",
		"git-receive-pack '-x'", "git-upload-archive \"a\x00b\"", "git upload-pack", "@", "@alice", "conduit", "conduit a b", "@bad/name git-upload-pack x", "@alice @alice git-upload-pack x",
		peer.PackCommand, peer.PackCommand + " 0123456789abcdef", peer.PackCommand + " x y",
	} {
		status, stdout, stderr := serve(sh, cluster.Identity{User: "alice"}, here, command, "")
		if status == 0 || stdout != "" || !strings.HasPrefix(stderr, "# ") || strings.ContainsRune(stderr, 0) {
			t.Errorf("%q: status %d, stdout %q, stderr %q", command, status, stdout, stderr)
		}
	}
	if p.asked > 0 {
		t.Error("a user had a pack")
	}
}

func TestConduit(t *testing.T) {
	sh, _ := newShell(t)
	sh.Conduit = conduit.New(conduit.Options{Device: "node1", Rules: sh.Rules, Log: sh.Log})
	for _, c := range []struct {
		command, stdin, want string
		status               int
	}{
		{"conduit conduit.ping", "", `"result":"node1"`, 0},
		{"conduit user.whoami", "{}", `"userName":"alice"`, 0},
		{"conduit nix", "{}", `"error_code":"ERR-CONDUIT-CALL"`, 1},
	} {
		status, stdout, _ := serve(sh, cluster.Identity{User: "alice"}, here, c.command, c.stdin)
		if status != c.status || !strings.Contains(stdout, c.want) || strings.Count(stdout, "\n") != 1 {
			t.Errorf("%s: status %d, %s", c.command, status, stdout)
		}
	}
}

// A synchronization that cannot be done is answered in its own form, which tells
// a client that this is a cluster's node.
func TestSyncAnswersBadInput(t *testing.T) {
	sh, _ := newShell(t)
	for _, command := range []string{SyncCommand, SyncCommand + " --write", SyncCommand + " a b", SyncCommand + " '../x'", SyncCommand + " -w a"} {
		status, stdout, _ := serve(sh, cluster.Identity{User: "alice"}, here, command, "")
		var reply syncReply
		if err := json.Unmarshal([]byte(stdout), &reply); err != nil || strings.Count(stdout, "\n") != 1 {
			t.Errorf("%q: the answer is %q: %v", command, stdout, err)
		}
		if status != 1 || reply.Error == "" || reply.Cluster != "c1" || reply.Node != "node1" || reply.Retry {
			t.Errorf("%q: status %d, %+v", command, status, reply)
		}
	}
}

// The objects of all repositories go to nodes, and to nobody else.
func TestPacksAreForNodes(t *testing.T) {
	sh, p := newShell(t)
	question := "want " + strings.Repeat("1", 40) + "\ndone\n"
	status, stdout, stderr := serve(sh, cluster.Identity{Device: "node2"}, here, peer.PackCommand+" 0123456789abcdef", question)
	if status != 0 || stdout != "PACK" {
		t.Errorf("a node: status %d, %q, %q", status, stdout, stderr)
	}
	for what, c := range map[string]struct {
		id      cluster.Identity
		from    string
		command string
		stdin   string
	}{
		"a user":                   {cluster.Identity{User: "alice"}, here, peer.PackCommand + " 0123456789abcdef", question},
		"nobody":                   {cluster.Identity{}, here, peer.PackCommand + " 0123456789abcdef", question},
		"a device that is no node": {cluster.Identity{Device: "builder"}, here, peer.PackCommand + " 0123456789abcdef", question},
		"a node as a user":         {cluster.Identity{Device: "node2"}, here, "@alice " + peer.PackCommand + " 0123456789abcdef", question},
		"a disabled node":          {cluster.Identity{Device: "off"}, here, peer.PackCommand + " 0123456789abcdef", question},
		"an unknown device":        {cluster.Identity{Device: "stranger"}, here, peer.PackCommand + " 0123456789abcdef", question},
		"a node from elsewhere":    {cluster.Identity{Device: "node2"}, "203.0.113.9:1", peer.PackCommand + " 0123456789abcdef", question},
		"a bad id":                 {cluster.Identity{Device: "node2"}, here, peer.PackCommand + " ../../etc", question},
		"no id":                    {cluster.Identity{Device: "node2"}, here, peer.PackCommand, question},
		"a bad question":           {cluster.Identity{Device: "node2"}, here, peer.PackCommand + " 0123456789abcdef", "give\n"},
	} {
		p.asked = 0
		if status, stdout, stderr := serve(sh, c.id, c.from, c.command, c.stdin); status == 0 || stdout != "" || stderr == "" || p.asked > 0 {
			t.Errorf("%s: status %d, %q, %q", what, status, stdout, stderr)
		}
	}
}

// Only a trusted device acts as a user, and only as one that exists.
func TestActingAsAUser(t *testing.T) {
	sh, _ := newShell(t)
	for _, c := range []struct {
		id      cluster.Identity
		from    string
		command string
		allowed bool
	}{
		{cluster.Identity{Device: "builder"}, here, "@alice", true},
		{cluster.Identity{Device: "builder"}, here, "@bob", false},
		{cluster.Identity{Device: "builder"}, here, "@", false},
		{cluster.Identity{Device: "builder"}, here, "@alice/x", false},
		{cluster.Identity{Device: "builder"}, "203.0.113.9:1", "@alice", false},
		{cluster.Identity{Device: "laptop"}, here, "@alice", false},
		{cluster.Identity{Device: "off"}, here, "@alice", false},
		{cluster.Identity{User: "alice"}, here, "@bob", false},
		{cluster.Identity{}, here, "@alice", false},
	} {
		_, _, stderr := serve(sh, c.id, c.from, c.command, "")
		if got := strings.Contains(stderr, "logged in as alice (device/"); got != c.allowed {
			t.Errorf("%s %s from %s: %q", c.id, c.command, c.from, stderr)
		}
	}
}

func TestFailSaysTheHintApart(t *testing.T) {
	sh, _ := newShell(t)
	var errs bytes.Buffer
	status := sh.fail(&session.Session{Stderr: &errs}, cluster.WithHint(cluster.ErrFenced, "repair it"))
	if status != statusRetry || errs.String() != "# replica is fenced\n# hint: repair it\n" {
		t.Errorf("status %d, %q", status, &errs)
	}
	if status := sh.fail(&session.Session{Stderr: &errs}, cluster.ErrDenied); status != 1 {
		t.Errorf("what no other node does better: status %d", status)
	}
	for err, want := range map[error]bool{cluster.ErrUnavailable: true, cluster.ErrNoReplica: true, cluster.ErrFenced: true, cluster.ErrStopping: true, cluster.ErrDenied: false, cluster.ErrNotFound: false, cluster.ErrBadRepoName: false, &gitexec.ExitError{Status: 1}: false, errors.New("x"): false} {
		if retryable(err) != want {
			t.Errorf("another node may do better after %v: %v", err, !want)
		}
	}
}
