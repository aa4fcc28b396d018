// Package freeport finds loopback addresses that nobody uses, for servers that
// cannot be handed a listener: an embedded etcd server, a node started as a process.
//
// Entry point: [Addrs].
//
// It promises addresses that differ from each other and were free a moment ago, outside the
// range from which systems draw ports for outgoing connections, so that none of
// those takes one before its server does.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// The ports drawn from: above the well-known ones, below the ephemeral ranges
// of Linux (32768) and of IANA (49152), which macOS and Windows use.
const lowest, highest = 10000, 32000

// Addrs returns n free addresses, "127.0.0.1:port".
func Addrs(n int) ([]string, error) {
	var all []string
	for tries := 0; len(all) < n; tries++ {
		if tries > 100+10*n {
			return nil, fmt.Errorf("no %d free ports from %d to %d", n, lowest, highest)
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(highest-lowest)))
		if err != nil {
			continue
		}
		defer l.Close() // held until all are drawn, so that no two are the same
		all = append(all, l.Addr().String())
	}
	return all, nil
}
