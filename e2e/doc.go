// Package e2e holds the tests that use real nodes and real Git, as people use
// them. It has no other code.
//
// The scripts in testdata are read by testscript; script_test.go says which
// commands they have beside its own. Each uses repositories below $R, which no
// other script does, and all share one cluster; tests that break something make
// their own.
//
// Tests run beside each other, but for those that hold something to a time, or take the
// whole machine: they come first, one after the other.
package e2e
