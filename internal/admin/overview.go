package admin

import (
	"context"
	"sync"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/journal"
	"gitcluster/internal/share"
)

// An Overview is what one asker may know of the cluster, for a page that is looked
// at again and again.
type Overview struct {
	Cluster string             `json:"cluster"`
	Node    cluster.DeviceName `json:"node"`            // who answers
	Time    time.Time          `json:"time"`            // when it was so
	Admin   bool               `json:"admin,omitempty"` // the asker may know everything
	Nodes   []NodeStatus       `json:"nodes"`           // for others than administrators: names and whether they are up
	Problem string             `json:"problem,omitempty"`

	Readable  int                                  `json:"readable"`  // how many repositories the asker may read
	Attention []RepoOverview                       `json:"attention"` // of these, some with a replica that lags or is fenced
	Lagging   int                                  `json:"lagging"`   // how many such there are
	Fenced    int                                  `json:"fenced"`
	Repos     []RepoOverview                       `json:"repositories"` // a page of them, by name
	Next      cluster.RepoName                     `json:"next,omitempty"`
	Working   map[cluster.RepoName]engine.Activity `json:"working"` // what this node synchronizes now
}

// A RepoOverview is a repository with what every node last reported of it.
type RepoOverview struct {
	journal.RepoHead
	Replicas []ReplicaView
}

// mostAttention bounds the repositories that are named besides the page.
const mostAttention = 20

// Overview tells what id may know, with a page of at most limit repositories from after
// a name on. Nobody may know of nodes but those who have signed in. What it tells
// is no older than a second or, in a large cluster, than twenty times what it takes to
// find out: however many look, the node and the journal are not kept busy by it.
func (s *Server) Overview(ctx context.Context, id cluster.Identity, after cluster.RepoName, limit int) (Overview, error) {
	if id == (cluster.Identity{}) {
		return Overview{}, cluster.ErrDenied
	}
	found, err := s.surveys.recent(ctx, s.survey)
	if err != nil {
		return Overview{}, err
	}
	rules, working := s.Rules.Snapshot(), s.Engine.Working()
	o := Overview{Cluster: s.Cluster.Name, Node: s.Device, Time: found.at, Admin: rules.Admin(id), Problem: found.status.Problem, Working: map[cluster.RepoName]engine.Activity{}}
	for _, n := range found.status.Nodes {
		if !o.Admin {
			n = NodeStatus{Name: n.Name, Enabled: n.Enabled, Up: n.Up}
		}
		o.Nodes = append(o.Nodes, n)
	}
	for _, r := range found.repos {
		if rules.Role(id, &r.Repo) < cluster.RoleRead {
			continue
		}
		o.add(r, after, limit)
		if a, ok := working[r.ID]; ok {
			o.Working[r.Name] = a
		}
	}
	return o, nil
}

// add counts a repository, and lists it if it is on the page or needs a look.
func (o *Overview) add(r RepoOverview, after cluster.RepoName, limit int) {
	o.Readable++
	lags, fenced := false, false
	for _, v := range r.Replicas {
		lags = lags || v.Behind > 0 && v.Fenced == ""
		fenced = fenced || v.Fenced != ""
	}
	if fenced {
		o.Fenced++
	}
	if lags {
		o.Lagging++
	}
	if (lags || fenced) && len(o.Attention) < mostAttention {
		o.Attention = append(o.Attention, r)
	}
	switch {
	case r.Name <= after:
	case len(o.Repos) < limit:
		o.Repos = append(o.Repos, r)
	case o.Next == "":
		o.Next = o.Repos[limit-1].Name
	}
}

// A survey is the state of everything at one moment, which nobody is told whole
// but an administrator.
type survey struct {
	at     time.Time
	took   time.Duration
	status Status
	repos  []RepoOverview
}

// surveyPatience is how long a survey waits for the journal: that it is silent is
// worth more when it is said soon.
const surveyPatience = 3 * time.Second

func (s *Server) survey(ctx context.Context) survey {
	found := survey{at: time.Now().UTC(), status: s.nodes(ctx, surveyPatience)}
	if found.status.Problem != "" {
		return found
	}
	ctx, cancel := context.WithTimeoutCause(ctx, surveyPatience, cluster.ErrUnavailable)
	defer cancel()
	for r, err := range s.Journal.Repos(ctx, "") {
		if err != nil {
			found.status.Problem = err.Error()
			return found
		}
		found.repos = append(found.repos, RepoOverview{RepoHead: r})
	}
	// The reports are read after the heads: a replica that looks behind was.
	replicas, err := s.Journal.Replicas(ctx, "")
	if err != nil {
		found.status.Problem = err.Error()
	}
	byID := make(map[cluster.RepoID]*RepoOverview, len(found.repos))
	for i := range found.repos {
		byID[found.repos[i].ID] = &found.repos[i]
	}
	for _, r := range replicas {
		if o := byID[r.Repo]; o != nil {
			o.Replicas = append(o.Replicas, replicaView(r, o.Head))
		}
	}
	return found
}

// surveys keeps the newest survey for as long as it may be shown.
type surveys struct {
	call share.Call[survey]
	mu   sync.Mutex
	last survey
}

// recent returns a survey that is new enough, or one that look makes, which all who
// wait for it share.
func (c *surveys) recent(ctx context.Context, look func(context.Context) survey) (survey, error) {
	if last, ok := c.fresh(); ok {
		return last, nil
	}
	return c.call.Do(ctx, func() (survey, error) {
		if last, ok := c.fresh(); ok { // made for those who came just before
			return last, nil
		}
		start := time.Now()
		found := look(context.WithoutCancel(ctx))
		found.took = time.Since(start)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.last = found
		return found, nil
	})
}

func (c *surveys) fresh() (survey, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := max(time.Second, min(20*c.last.took, time.Minute))
	if c.last.status.Problem != "" {
		keep = time.Second // an end of it should be seen at once
	}
	return c.last, time.Since(c.last.at) < keep
}
