//go:build !linux

package e2e

import (
	"testing"
	"time"
)

type namespace struct {
	wrap, hosts []string
	wires       []*wire
}

type wire struct{}

func (*wire) cut(int64) {}
func (*wire) heal()     {}

func newNamespace(t testing.TB, _ ...time.Duration) *namespace {
	t.Helper()
	t.Skip("network namespaces are Linux's")
	return nil
}
