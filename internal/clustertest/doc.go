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
