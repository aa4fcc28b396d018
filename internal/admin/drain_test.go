package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
	"gitcluster/internal/service"
)

func TestMajorityOf(t *testing.T) {
	voters := func(names ...string) (all []journal.MemberState) {
		for _, name := range names {
			all = append(all, journal.MemberState{Name: strings.TrimSuffix(name, "?"), Voter: !strings.HasSuffix(name, "?")})
		}
		return all
	}
	for _, c := range []struct {
		members []journal.MemberState
		up      string
		goesOn  bool
	}{
		{voters("a", "b", "c"), "b c", true},
		{voters("a", "b", "c"), "c", false},
		{voters("a", "b?"), "b", false}, // the second is a copy that cannot vote
		{voters("a", "b?"), "a", true},
		{voters("a", "b", "c", "d?"), "b d", false},
	} {
		up := map[string]bool{}
		for _, name := range strings.Fields(c.up) {
			up[name] = true
		}
		if got := majorityOf(c.members, up); (got == "") != c.goesOn {
			t.Errorf("of %v with %s up: %q", c.members, c.up, got)
		}
	}
}

// neighbours are other nodes, each reached by its own server; nil for one that does
// not answer.
type neighbours map[cluster.DeviceName]*Server

func (n neighbours) Open(ctx context.Context, on cluster.DeviceName, _ string) (Conversation, error) {
	to := n[on]
	if to == nil {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		to.Serve(ctx, cluster.Identity{Device: "node1"}, theirs, theirs, io.Discard)
	}()
	return line{ours}, nil
}

type line struct{ net.Conn }

func (line) CloseWrite() error { return nil }

// The other nodes are asked what they have: what they once reported is not what is on
// their disks now.
func TestDrainAsksTheOthers(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	front, err := net.Listen("tcp", "127.0.0.1:0") // what is knocked at
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	second := cluster.Device{Name: "node2", PublicKey: newKey(t), SSH: front.Addr().String(), Node: true, Enabled: true, Trusted: true, Writable: true}
	if err := w.Journal.AddDevice(ctx, second, "1"); err != nil {
		t.Fatal(err)
	}
	others := neighbours{}
	w.Nodes = others
	store, err := repository.NewStore(filepath.Join(t.TempDir(), "repositories"), &gitexec.Runner{})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	e := engine.New(engine.Options{Device: "node2", Incarnation: "1", Journal: w.Journal, Store: store, Peers: alone{}, Log: log})
	t.Cleanup(func() { e.Close(context.Background()) })
	r := &rules{j: w.Journal, old: access.NewDirectory([]cluster.Device{{Name: "node1", PublicKey: newKey(t), Node: true, Enabled: true}}, nil, nil, nil)}
	there := &Server{Cluster: w.Cluster, Device: "node2", Journal: w.Journal, Engine: e, Rules: r, Log: log,
		Service: service.New(service.Options{Device: "node2", Engine: e, Journal: w.Journal, Directory: r, Run: &gitexec.Runner{}, Log: log})}
	others["node2"] = there

	at, err := w.Service.Create(ctx, operator, cluster.Repo{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	entry := journal.Entry{Epoch: at.Head.Epoch, Version: 1, Head: "refs/heads/trunk", Device: "node1", Pushes: []journal.Push{{ID: journal.NewID()}}}
	empty := repository.NewRefTable()
	empty.SetHead("refs/heads/trunk")
	entry.Digest = empty.Digest()
	head, err := w.Journal.Append(ctx, at.Repo.ID, at.Head, entry, nil)
	if err != nil {
		t.Fatal(err)
	}
	status := func() DrainStatus {
		t.Helper()
		var st DrainStatus
		got, err := w.drainStatus(ctx, DeviceName{Device: "node1"})
		if err != nil {
			t.Fatal(err)
		}
		st = got
		return st
	}
	// A report that outlived its disk.
	if err := w.Journal.ReportReplica(ctx, journal.Replica{Repo: at.Repo.ID, Device: "node2", Position: head.Position}); err != nil {
		t.Fatal(err)
	}
	if st := status(); st.Left != 1 || len(st.Waiting) != 1 || st.Waiting[0] != "a" {
		t.Errorf("before node2 has it: %+v", st)
	}
	if _, err := e.Sync(ctx, engine.Resolved{Repo: at.Repo, Head: head}, nil); err != nil {
		t.Fatal(err)
	}
	if st := status(); st.Left != 0 || st.Problem != "" {
		t.Errorf("when node2 has it: %+v", st)
	}
	// Nor does what is doubted count, nor a node that does not answer.
	repo, err := store.Open(at.Repo.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.SetDoubt("the disk was exchanged"); err != nil {
		t.Fatal(err)
	}
	doubting := engine.New(engine.Options{Device: "node2", Incarnation: "1", Journal: w.Journal, Store: store, Peers: alone{}, Log: log})
	t.Cleanup(func() { doubting.Close(context.Background()) })
	there.Engine = doubting
	if st := status(); st.Left != 1 {
		t.Errorf("when node2's disk is doubted: %+v", st)
	}
	others["node2"] = nil
	if st := status(); st.Left != 1 || !strings.Contains(st.Problem, "node2 does not say what it has") {
		t.Errorf("when node2 does not answer: %+v", st)
	}
}
