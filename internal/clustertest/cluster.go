package clustertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gitcluster/internal/admin"
	"gitcluster/internal/journal"
)

// A Cluster is nodes that run, or did. Its methods are for one goroutine; those
// of its users are for any.
type Cluster struct {
	Nodes []*Node
	Admin *User  // its first administrator
	Bin   string // folder of the programs

	dir    string
	net    network
	links  *Links // nil: all nodes are on the loopback interface
	users  []*User
	fronts []*OpenSSH
	made   int // nodes, those no longer in Nodes too
	init   []string
	env    []string
}

// A Setting makes a cluster another than the usual one.
type Setting func(*Cluster)

// InitFlags adds flags to the "git cluster init" of the first node.
func InitFlags(flags ...string) Setting { return func(c *Cluster) { c.init = flags } }

// NodeEnv sets variables for the processes of all nodes.
func NodeEnv(env ...string) Setting { return func(c *Cluster) { c.env = env } }

// Start makes a cluster of n nodes that ends with the test. With three or more
// it waits until the journal survives the loss of one.
func Start(t testing.TB, n int, settings ...Setting) *Cluster {
	t.Helper()
	c, err := New(n, settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.ShowLogs(t)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// New makes a cluster of n nodes. The caller must Close it.
func New(n int, settings ...Setting) (c *Cluster, err error) {
	c = &Cluster{net: newNetwork()}
	for _, set := range settings {
		set(c)
	}
	if c.Bin == "" {
		if c.Bin, err = Programs(); err != nil {
			return nil, err
		}
	}
	if c.dir, err = os.MkdirTemp("", "gc-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%w\n%s", err, c.logs()), c.Close())
		}
	}()
	if c.Admin, err = c.newUser("boss"); err != nil {
		return c, err
	}
	for range n {
		if _, err := c.Grow(); err != nil {
			return c, err
		}
	}
	if n < 3 {
		return c, nil
	}
	if last := await(startLimit, c.fewVoters); last != "" {
		return c, errors.New(last)
	}
	return c, nil
}

// Grow adds a node by the commands operators use, and starts it.
func (c *Cluster) Grow() (*Node, error) {
	c.made++
	n, err := c.NewNode(fmt.Sprintf("node%d", c.made))
	if err != nil {
		return nil, err
	}
	var r Result
	if len(c.Nodes) == 0 {
		r = c.Admin.Run("", append(n.Settings("init", "--cluster-name", "test", "--admin", c.Admin.Name, "--admin-key", c.Admin.path("id.pub")), c.init...)...)
	} else {
		token := c.Admin.Run("", "git-cluster", "token", "create", "--data", c.Nodes[0].Data)
		if err := token.Err(); err != nil {
			return nil, err
		}
		r = c.Admin.Run("", n.Settings("join", c.Nodes[0].SSH, "--token", strings.TrimSpace(token.Stdout))...)
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	c.Nodes = append(c.Nodes, n)
	if err := n.Start(); err != nil {
		return nil, err
	}
	return n, c.writeFiles()
}

// Node returns the node of that name.
func (c *Cluster) Node(t testing.TB, name string) *Node {
	t.Helper()
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("no node %q", name)
	return nil
}

// fewVoters says what the journal lacks to survive the loss of a node.
func (c *Cluster) fewVoters() string {
	st, err := c.Nodes[0].Status()
	if err != nil {
		return err.Error()
	}
	voters := 0
	for _, m := range st.Journal {
		if m.Voter {
			voters++
		}
	}
	if voters < 3 {
		return fmt.Sprintf("%d of 3 voters", voters)
	}
	return ""
}

// Repository returns the directory of a repository on every node, by the node's
// name.
func (c *Cluster) Repository(t testing.TB, name string) map[string]string {
	t.Helper()
	view := c.Show(t, name)
	dirs := map[string]string{}
	for _, n := range c.Nodes {
		id := string(view.ID)
		dirs[n.Name] = filepath.Join(n.Data, "repositories", id[:2], id+".git")
	}
	return dirs
}

// OpenJournal connects to the journal as a node would. The caller must Close it.
func (c *Cluster) OpenJournal() (*journal.Client, error) {
	var servers []string
	for _, n := range c.Nodes {
		servers = append(servers, n.client)
	}
	return journal.Dial(servers, filepath.Join(c.Nodes[0].Data, "tls"))
}

// Show returns what the first node that runs knows of a repository.
func (c *Cluster) Show(t testing.TB, name string) (view admin.RepoView) {
	t.Helper()
	for _, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		r := c.Admin.Run("", "git-cluster", "repo", "show", name, "--json", "--data", n.Data)
		err := r.Err()
		if err == nil {
			err = json.Unmarshal([]byte(r.Stdout), &view)
		}
		if err != nil {
			t.Fatal(err)
		}
		return view
	}
	t.Fatal("no node runs")
	return view
}

// ShowLogs logs the end of the nodes' logs if the test has failed.
func (c *Cluster) ShowLogs(t testing.TB) {
	if t.Failed() {
		t.Log(c.logs())
	}
}

func (c *Cluster) logs() string {
	var b strings.Builder
	for _, n := range c.Nodes {
		data, err := os.ReadFile(n.log)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		fmt.Fprintf(&b, "--- the end of %s's log\n%s\n", n.Name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
	for _, f := range c.fronts {
		fmt.Fprintf(&b, "--- %s's log\n%s\n", f.Name, f.Log())
	}
	return b.String()
}

// Close ends all nodes and removes everything. Nodes are killed: how they stop
// is a matter of tests that look at it.
func (c *Cluster) Close() error {
	var err error
	for _, f := range c.fronts {
		err = errors.Join(err, f.close())
	}
	for _, n := range c.Nodes {
		n.Kill()
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}
