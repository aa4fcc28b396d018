package peer

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/sshclient/sshtest"
)

// A push counts as not tried only where the other node says so: it would be made
// once more.
func TestOutcome(t *testing.T) {
	c := Commit{Updates: make([]cluster.RefUpdate, 2)}
	for _, test := range []struct {
		answer committed
		want   error
	}{
		{committed{Results: make([]cluster.RefResult, 2)}, nil},
		{committed{Error: "no"}, ErrNotTried},
		{committed{Error: "perhaps", Unclear: true}, ErrUnclear},
		{committed{Unclear: true}, ErrUnclear},
		{committed{}, ErrUnclear},
		{committed{Results: make([]cluster.RefResult, 1)}, ErrUnclear},
	} {
		if _, err := test.answer.outcome(c); !errors.Is(err, test.want) {
			t.Errorf("%+v: %v, want %v", test.answer, err, test.want)
		}
	}
}

type committer struct{ asked int }

func (c *committer) CommitFor(context.Context, Commit) ([]cluster.RefResult, error) {
	c.asked++
	return []cluster.RefResult{{Ref: "refs/heads/x"}}, nil
}

func TestServeCommitChecks(t *testing.T) {
	one := strings.Repeat("1", 40)
	for question, ok := range map[string]bool{
		`{"repo":"0123456789abcdef","push":"p","updates":[{"ref":"refs/heads/x","old":"","new":"` + one + `"}]}`:   true,
		`{"repo":"0123456789abcdef","push":"p","updates":[{"ref":"refs/heads/x","old":"","new":"--all\\n"}]}`:      false,
		`{"repo":"0123456789abcdef","push":"p","updates":[{"ref":"refs/heads/x","old":"^x","new":"` + one + `"}]}`: false,
		`{"repo":"../x","push":"p","updates":[{"ref":"refs/heads/x","old":"","new":"` + one + `"}]}`:               false,
		`{"repo":"0123456789abcdef","push":"p"}`:                                                      false,
		`{"repo":"0123456789abcdef","updates":[{"ref":"refs/heads/x","old":"","new":"` + one + `"}]}`: false,
	} {
		var by committer
		if err := ServeCommit(t.Context(), &by, strings.NewReader(question+"\n"), io.Discard); err != nil || (by.asked == 1) != ok {
			t.Errorf("%s: asked %d times, %v", question, by.asked, err)
		}
	}
}

// A node of an older version does nothing with what it does not know, and that is
// certain; one whose answer is lost may have done anything.
func TestCommitOnAnOlderNode(t *testing.T) {
	for said, want := range map[string]error{
		"# unknown command \"cluster-peer-commit\"\nWelcome to git-cluster node \"old\".\n": ErrNotTried,
		"# the journal is unavailable\n": ErrUnclear,
		"":                               ErrUnclear,
	} {
		s := sshtest.Start(t, sshtest.Options{Handler: func(_ context.Context, s *sshtest.Session) int {
			io.WriteString(s.Stderr, said)
			return 1
		}})
		devices := []cluster.Device{{Name: "old", PublicKey: s.HostKey(), Node: true, Enabled: true, SSH: s.Addr}}
		directory := access.NewDirectory(devices, nil, nil, nil)
		p := New("new", "", s.Accept, func() *access.Directory { return directory })
		t.Cleanup(p.Close)
		if _, err := p.Commit(t.Context(), "old", Commit{ID: "p", Updates: make([]cluster.RefUpdate, 1)}); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", said, err, want)
		}
	}
}
