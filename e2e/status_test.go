package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/admin"
	"gitcluster/internal/clustertest"
)

// TestStatusOfDeadNodes asks for the status when it matters: with a node dead,
// and with so many dead that the journal is silent.
func TestStatusOfDeadNodes(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3)
	alive := c.Nodes[0]
	up := func() string {
		r := c.Admin.Run("", "git-cluster", "status", "--json", "--data", alive.Data)
		var st admin.Status
		if err := json.Unmarshal([]byte(r.Stdout), &st); err != nil {
			return fmt.Sprintf("%v: %v, %v", r.Args, err, r.Err())
		}
		var names []string
		for _, n := range st.Nodes {
			if n.Up {
				names = append(names, string(n.Name))
			}
		}
		return strings.Join(names, " ")
	}
	// A node that does not answer soon is shown as not being up.
	await := func(want string) {
		t.Helper()
		clustertest.Await(t, 30*time.Second, func() string {
			if got := up(); got != want {
				return fmt.Sprintf("up are %q, want %q", got, want)
			}
			return ""
		})
	}
	await("node1 node2 node3")
	c.Node(t, "node3").Kill()
	await("node1 node2")
	c.Node(t, "node2").Kill()
	r := c.Admin.Run("", "git-cluster", "status", "--data", alive.Data)
	r.Refused(t)
	for _, want := range []string{"node1", "node2", "node3", "NO"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("without a majority the status names not %q:\n%s", want, r.Stdout)
		}
	}
	if !strings.Contains(r.Stderr, "majority") || strings.Contains(r.Stderr, "deadline") {
		t.Errorf("it says %q", r.Stderr)
	}
}
