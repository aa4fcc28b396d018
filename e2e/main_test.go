package e2e

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"gitcluster/internal/clustertest"
)

func TestMain(m *testing.M) {
	code := clustertest.Main(m)
	if shared.cluster != nil {
		if err := shared.cluster.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

var shared struct {
	once    sync.Once
	cluster *clustertest.Cluster
	err     error
	mu      sync.Mutex // held to add users
}

// sharedCluster is three nodes that all tests use which break nothing.
func sharedCluster(t testing.TB) *clustertest.Cluster {
	t.Helper()
	shared.once.Do(func() {
		c, err := clustertest.New(3)
		if err != nil {
			shared.err = err
			return
		}
		shared.cluster = c
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	t.Cleanup(func() { shared.cluster.ShowLogs(t) })
	return shared.cluster
}

// addUser adds a user to the shared cluster.
func addUser(t testing.TB, name string, flags ...string) *clustertest.User {
	t.Helper()
	c := sharedCluster(t)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	return c.AddUser(t, name, flags...)
}
