package web

import (
	"bytes"
	"context"
	"fmt"
	"hash/maphash"
	"net/http"
	"strings"
	"sync"
	"time"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/service"
)

// clusterBody is the cluster page; Board is the part that changes while it is
// looked at.
type clusterBody struct {
	Board  board
	Events string // address of the events
}

type board struct {
	Health    health
	Here      cluster.DeviceName
	Nodes     []admin.NodeStatus
	Attention []boardRow
	Unnamed   int // more of those than are listed
	Rows      []boardRow
	Readable  int
	First     string
	Next      string
	Problem   string
}

// A health is the state of the cluster in a sentence.
type health struct {
	Level string // "good", "busy" or "bad"
	Says  string
	More  string
}

type boardRow struct {
	Name     cluster.RepoName
	Address  string
	Version  cluster.Version
	Copies   int // replicas that show the newest version
	Of       int
	Replicas []replicaState // in the order of the nodes
	Last     *service.PushRecord
	Working  *engine.Activity
}

// A replicaState is what a node last reported.
type replicaState struct {
	Node  cluster.DeviceName
	Level string // "good", "busy", "bad", or "none" if it has reported nothing
	Says  string
}

const boardRows = 50

func (a *asked) clusterPage(ctx context.Context) (*page, error) {
	if a.id == (cluster.Identity{}) {
		a.redirect(http.StatusSeeOther, a.signInLink())
		return nil, nil
	}
	b, err := a.board(ctx)
	if err != nil {
		return nil, err
	}
	return &page{template: "cluster", Title: "Cluster", Body: clusterBody{b, eventsPath + query("after", a.r.FormValue("after"))}, Live: true}, nil
}

// board is what the visitor may know of the cluster.
func (a *asked) board(ctx context.Context) (board, error) {
	after := cluster.RepoName(a.r.FormValue("after"))
	if after != "" {
		if _, err := cluster.ParseRepoName(string(after)); err != nil {
			return board{}, err
		}
	}
	o, err := a.Status.Overview(ctx, a.id, after, boardRows)
	if err != nil {
		return board{}, err
	}
	b := board{Health: judge(o), Here: o.Node, Nodes: o.Nodes, Readable: o.Readable, Problem: o.Problem}
	for _, r := range o.Attention {
		b.Attention = append(b.Attention, a.boardRow(ctx, o, r))
	}
	b.Unnamed = max(0, max(o.Lagging, o.Fenced)-len(o.Attention))
	for _, r := range o.Repos {
		b.Rows = append(b.Rows, a.boardRow(ctx, o, r))
	}
	if after != "" {
		b.First = clusterPath
	}
	if o.Next != "" {
		b.Next = clusterPath + query("after", string(o.Next))
	}
	return b, nil
}

func (a *asked) boardRow(ctx context.Context, o admin.Overview, r admin.RepoOverview) boardRow {
	row := boardRow{Name: r.Name, Address: links{repo: r.Name}.Home(), Version: r.Head.Version, Last: a.lastPush(ctx, r.RepoHead)}
	if w, ok := o.Working[r.Name]; ok {
		row.Working = &w
	}
	reported := map[cluster.DeviceName]admin.ReplicaView{}
	for _, v := range r.Replicas {
		reported[v.Device] = v
	}
	for _, n := range o.Nodes {
		if !n.Enabled {
			continue
		}
		s := replicaState{Node: n.Name, Level: "none", Says: "no report"}
		v, ok := reported[n.Name]
		switch {
		case ok && v.Fenced != "":
			s.Level, s.Says = "bad", "set aside"
		case ok && v.Behind > 0:
			s.Level, s.Says = "busy", fmt.Sprintf("%d behind", v.Behind)
		case ok:
			s.Level, s.Says = "good", "current"
			row.Copies++
		case r.Head.Version == 0:
			s.Says = "empty"
		}
		row.Of++
		row.Replicas = append(row.Replicas, s)
	}
	return row
}

// judge says how the cluster is in a sentence.
func judge(o admin.Overview) health {
	var down []string
	up := 0
	for _, n := range o.Nodes {
		switch {
		case !n.Enabled:
		case n.Up:
			up++
		default:
			down = append(down, string(n.Name))
		}
	}
	lagging := ""
	if o.Lagging > 0 {
		lagging = counted(o.Lagging, "repository has", "repositories have") + " a replica that is catching up."
	}
	switch {
	case o.Problem != "":
		return health{"bad", "The journal does not answer.", "Until a majority of its voters is back, pushes and reads are refused, and the nodes are shown as this one last knew them."}
	case o.Fenced > 0:
		return health{"bad", counted(o.Fenced, "repository has", "repositories have") + " a replica that is set aside.", "Its disk contradicts the journal. Other nodes serve the repository."}
	case len(down) > 0:
		says := names(down) + " is down"
		if len(down) > 1 {
			says = names(down) + " are down"
		}
		if 2*up > up+len(down) {
			return health{"bad", says + "; reads and writes go on.", lagging}
		}
		// By default a push wants copies on a majority of the nodes.
		return health{"bad", says + "; reads go on, and pushes may be refused.", lagging}
	case o.Lagging > 0:
		return health{"busy", lagging, ""}
	case up == 1:
		return health{"good", "The only node is up.", ""}
	}
	return health{"good", fmt.Sprintf("All %d nodes are up, and all replicas are current.", up), ""}
}

// names joins names as a sentence has them.
func names(all []string) string {
	if len(all) == 1 {
		return all[0]
	}
	return strings.Join(all[:len(all)-1], ", ") + " and " + all[len(all)-1]
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// An audience is those who watch the cluster page live. The zero value is ready.
type audience struct {
	mu  sync.Mutex
	all int
	by  map[string]int
}

// Bounds of an audience. A browser may have a few such pages open.
const (
	mostViewers    = 200
	mostViewersOne = 8
)

// enter admits a viewer, if there is room.
func (u *audience) enter(who string) (leave func(), ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.all >= mostViewers || u.by[who] >= mostViewersOne {
		return nil, false
	}
	if u.by == nil {
		u.by = map[string]int{}
	}
	u.all++
	u.by[who]++
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.all--
		if u.by[who]--; u.by[who] == 0 {
			delete(u.by, who)
		}
	}, true
}

const (
	boardEvery = time.Second      // how often a live page looks for changes
	heartbeat  = 15 * time.Second // so that a viewer that is gone is noticed
	liveTime   = 4 * time.Hour    // then the browser connects again
)

// events sends the board whenever it has changed, as server-sent events (HTML Living
// Standard, 9.2), until the visitor leaves or the token behind the cookie ends.
func (a *asked) events() {
	ctx, cancel := context.WithTimeout(a.whole, liveTime)
	defer cancel()
	who := a.id
	if who == (cluster.Identity{}) {
		a.fail(http.StatusForbidden, "Not signed in", "The state of the cluster is shown to those who have signed in.")
		return
	}
	leave, ok := a.live.enter(who.String())
	if !ok {
		a.w.Header().Set("Retry-After", "30")
		a.fail(http.StatusTooManyRequests, "Too many live pages are open", "Close one, or reload this page by hand.")
		return
	}
	defer leave()
	h := a.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	control := http.NewResponseController(a.w)
	tick := time.NewTicker(boardEvery)
	defer tick.Stop()
	seed := maphash.MakeSeed()
	var last uint64 // what was sent, as a hash
	var sent time.Time
	for {
		if id, err := a.Login.Cookie(a.r); err != nil || id != who {
			fmt.Fprint(a.w, "event: end\ndata:\n\n")
			control.Flush()
			return
		}
		b, err := a.board(ctx)
		if ctx.Err() != nil {
			return
		}
		var out bytes.Buffer
		if err == nil {
			err = a.templates["cluster"].ExecuteTemplate(&out, "board", b)
		}
		if err != nil {
			a.Log.Warn("live cluster page", "error", err)
			return
		}
		switch now := maphash.Bytes(seed, out.Bytes()); {
		case now != last:
			for line := range bytes.Lines(out.Bytes()) {
				fmt.Fprintf(a.w, "data: %s\n", bytes.TrimRight(line, "\r\n"))
			}
			fmt.Fprint(a.w, "\n")
			last, sent = now, time.Now()
		case time.Since(sent) > heartbeat:
			fmt.Fprint(a.w, ":\n\n")
			sent = time.Now()
		}
		if control.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
