package client

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/remotehelper"
	"gitcluster/internal/sshclient"
	"gitcluster/internal/sshclient/sshtest"
)

// foreign is a server that knows no cluster-sync.
func foreign(says string, status int) sshtest.Handler {
	return func(_ context.Context, s *sshtest.Session) int {
		if isSync(s) {
			fmt.Fprintln(s.Stderr, "sh: cluster-sync: not found")
			return 127
		}
		fmt.Fprint(s.Stdout, says)
		return status
	}
}

// Servers that are no nodes are asked once; slow ones have their time even if
// others were asked meanwhile.
func TestForeignServers(t *testing.T) {
	g := remembering(t)
	g.limits.SyncWait = 50 * time.Millisecond // so the second is asked, too
	started, left := make(chan struct{}), make(chan struct{})
	starts, leaves := sync.OnceFunc(func() { close(started) }), sync.OnceFunc(func() { close(left) })
	first := g.node("n1", func(ctx context.Context, s *sshtest.Session) int {
		<-left // it is slow until the second was asked, and left because it knows no cluster-sync
		return foreign("hello0000", 0)(ctx, s)
	})
	second := g.node("n2", func(ctx context.Context, s *sshtest.Session) int {
		if !isSync(s) { // it is asked for together with that
			starts()
			<-ctx.Done()
			leaves()
			return sshtest.NoStatus
		}
		<-started
		return foreign("", 1)(ctx, s)
	})
	for i := range 2 {
		g.cache = again(g.cache)
		if out, stderr, err := g.connect(remotehelper.UploadPack); out != "\nhello0000" || err != nil || stderr != "" {
			t.Errorf("run %d: stdout %q, stderr %q, %v", i, out, stderr, err)
		}
	}
	for _, s := range []*sshtest.Server{first, second} {
		if asked := strings.Count(strings.Join(s.Commands(), "\n"), syncCommand); asked != 1 {
			t.Errorf("cluster-sync was tried %d times: %q", asked, s.Commands())
		}
	}
}

// A replica that did not answer while it was asked whether it is current has its
// turn when the near one has failed.
func TestSecondTurn(t *testing.T) {
	g := remembering(t)
	g.limits.SyncWait, g.limits.Sync = 50*time.Millisecond, 10*time.Second
	asked := make(chan bool, 10)
	g.node("n1", func(ctx context.Context, s *sshtest.Session) int {
		if isSync(s) {
			<-asked
		} else {
			<-ctx.Done()
		}
		fmt.Fprintln(s.Stdout, `{"cluster":"c","node":"n","error":"no replica has it","retry":true}`)
		return 1
	})
	g.node("n2", func(ctx context.Context, s *sshtest.Session) int {
		if strings.Contains(s.Command, " --current ") {
			asked <- true
			fmt.Fprintln(s.Stdout, "rubbish")
			return 3
		}
		return good(ctx, s)
	})
	if out, stderr, err := g.connect(remotehelper.UploadPack); out != "\nhello0000" || err != nil || !strings.Contains(stderr, "no replica has it; ") {
		t.Errorf("stdout %q, stderr %q, %v", out, stderr, err)
	}
}

// A name that a server does not know is no reason to avoid it.
func TestUnknownRepository(t *testing.T) {
	g := remembering(t)
	first := g.node("n1", foreign("", 128))
	g.node("n2", foreign("", 128))
	_, _, err := g.connect(remotehelper.UploadPack)
	if err == nil || !strings.Contains(err.Error(), "git-upload-pack ended before it answered: exit status 128") {
		t.Error(err)
	}
	if m := again(g.cache).Measure(first.Addr); m.Failures != 0 {
		t.Errorf("it counts as a failure: %+v", m)
	}
}

// That somebody may be listening in between is said whoever serves, however quiet
// Git is to be.
func TestChangedKeyIsTold(t *testing.T) {
	g := remembering(t)
	g.quiet = true
	moved := sshtest.Start(t, sshtest.Options{Accept: g.opts.Accept, Handler: good})
	g.at("n1", moved.Addr, (&sshtest.Server{Host: sshtest.NewKey(t)}).HostKey())
	g.node("n2", good)
	out, stderr, err := g.connect(remotehelper.UploadPack)
	if out != "\nhello0000" || err != nil || !strings.Contains(stderr, sshclient.ErrHostKeyChanged.Error()+": ") ||
		!strings.Contains(stderr, "; trying n2\nhint: if the server's operator confirms the new key") {
		t.Errorf("stdout %q, stderr %q, %v", out, stderr, err)
	}
}
