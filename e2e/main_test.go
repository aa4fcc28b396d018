package e2e

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"gitcluster/internal/clustertest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		// They wait for their nodes more than they work.
		flag.Set("test.parallel", strconv.Itoa(runtime.GOMAXPROCS(0)+2))
	}
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
