// Package clustertest runs real nodes for tests: the built programs, as
// processes, on the loopback interface, with Git as people use it in front.
//
// Entry points: [Start] makes a cluster for one test and [New] one that several
// share; [Node] starts, kills, pauses and stops one of its processes; [User] is
// somebody with a key and the configuration to use the cluster; [Await] waits for
// a state; [Main] builds the programs once for a test binary and removes them.
//
// It promises that nothing of the person who runs the test is read or changed,
// that no process outlives the test, and that the nodes' logs are shown when a
// test fails.
package clustertest

import (
	"os"
	"testing"
)

// EnvLong, if set, has tests run in full that otherwise do what is most telling, or
// that take minutes, and disk.
const EnvLong = "GIT_CLUSTER_TEST_LONG"

// Long reports whether tests are to run in full.
func Long() bool { return os.Getenv(EnvLong) != "" }

// NeedLong skips a test that is not part of every run.
func NeedLong(t testing.TB) {
	t.Helper()
	if !Long() {
		t.Skipf("takes minutes: set %s", EnvLong)
	}
}
