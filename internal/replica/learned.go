package replica

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/address"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
)

// configOrigin names a cluster of the configuration as it is now. Nodes learned
// before its addresses or keys were changed might be those of another cluster.
func configOrigin(name string, k *config.Cluster) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q\n", k.KnownHosts)
	for _, n := range k.Nodes {
		fmt.Fprintf(h, "%q %q\n", n.Addr(), n.HostKey)
	}
	return "cluster " + name + " " + hex.EncodeToString(h.Sum(nil)[:8])
}

// learned adds the nodes learned under an origin. A node that is there already,
// by its name, its address or its host key, only gets what the user has not said of
// it: never an address and never a host key.
func (q Query) learned(all []Candidate, origin string) []Candidate {
	if q.Nodes == nil {
		return all
	}
	list, ok := q.Nodes(origin)
	if !ok {
		return all
	}
	for _, n := range list.Nodes {
		host, n, ok := readNode(n)
		if !ok {
			continue
		}
		if i := find(all, n, host.Dial()); i >= 0 {
			if all[i].Region == "" {
				all[i].Region = n.Region
			}
			if all[i].HTTP == "" {
				all[i].HTTP = n.HTTP
			}
			continue
		}
		c := Candidate{Name: string(n.Name), Addr: host.Dial(), HostKey: n.HostKey, Region: n.Region, HTTP: n.HTTP, Cluster: list.Cluster, Origin: origin}
		for _, named := range all { // whoever vouches for it is logged in to alike
			if named.Origin != origin || named.Learned() {
				continue
			}
			if c.Vouchers == nil {
				c.User, c.Identity = named.User, named.Identity
			}
			c.Vouchers = append(c.Vouchers, named.Addr)
		}
		all = append(all, c)
	}
	return all
}

func find(all []Candidate, n cluster.NodeAddress, addr string) int {
	for i, c := range all {
		// The same key at another address is the same node behind a forwarded port.
		if c.Addr == addr || c.Name == string(n.Name) || sameKey(c.HostKey, n.HostKey) {
			return i
		}
	}
	return -1
}

// sameKey compares authorized_keys lines without their comments.
func sameKey(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	return len(x) >= 2 && len(y) >= 2 && x[0] == y[0] && x[1] == y[1]
}

// readNode checks what a node has said of another: it ends in command lines, in
// messages and in a trust decision.
func readNode(n cluster.NodeAddress) (host address.Host, _ cluster.NodeAddress, ok bool) {
	if name, err := cluster.ParseDeviceName(string(n.Name)); err != nil || name != n.Name {
		return host, n, false
	}
	host, err := address.ParseHost(n.SSH)
	if err != nil {
		return host, n, false
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(n.HostKey))
	if err != nil || len(options) > 0 || len(rest) > 0 {
		return host, n, false
	}
	n.HostKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	if _, err := address.ParseHost(n.HTTP); err != nil {
		n.HTTP = ""
	}
	if len(n.Region) > 64 || strings.ContainsFunc(n.Region, func(r rune) bool { return !unicode.IsPrint(r) }) {
		n.Region = ""
	}
	return host, n, true
}
