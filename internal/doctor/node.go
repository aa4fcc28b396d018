package doctor

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gitcluster/internal/admin"
)

// node looks at the node of this machine.
func (d *Doctor) node(ctx context.Context) {
	d.dataDirectory()
	d.disk()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	st, err := d.Status(ctx)
	if err != nil {
		d.fault(Fail, "this node", err, "start it: git cluster serve")
		return
	}
	if st.Version != d.Version {
		d.tell(Warn, "this node", "start the node anew", "it runs version %s, and this program is %s", st.Version, d.Version)
	} else {
		d.say(OK, "this node", "%s runs, version %s", st.Node, st.Version)
	}
	d.journal(st)
	d.trusted(ctx, st)
	for _, r := range st.Behind {
		for _, v := range r.Replicas {
			switch {
			case v.Fenced != "":
				d.tell(Fail, "replica", "see \"replica is fenced\" in the manual", "%s on %s is fenced: %s", r.Name, v.Device, v.Fenced)
			default:
				d.tell(Warn, "replica", "it catches up by itself while that node is up", "%s on %s is at version %d of %d", r.Name, v.Device, v.Version, r.Version)
			}
		}
	}
}

// dataDirectory looks at who may read the node's keys, and write what it
// believes.
func (d *Doctor) dataDirectory() {
	info, err := os.Stat(d.Data)
	if err != nil {
		d.fault(Fail, "data directory", err, "name it with --data")
		return
	}
	owner := ownerOf(info)
	key := filepath.Join(d.Data, "device", "id_ed25519")
	keyInfo, err := os.Stat(key)
	switch mode := info.Mode().Perm(); {
	case mode&0o022 != 0:
		d.tell(Fail, "data directory", "chmod go-w "+d.Data, "%s can be written by other accounts (mode %#o)", d.Data, mode)
	case os.Getuid() != 0 && owner != os.Getuid():
		d.tell(Warn, "data directory", "run this as the node's account", "%s belongs to the account %d, and this one is %d", d.Data, owner, os.Getuid())
	case err != nil:
		d.fault(Fail, "data directory", err, "restore the node's key, or join as a new node")
	case keyInfo.Mode().Perm()&0o077 != 0:
		d.tell(Fail, "data directory", "chmod 600 "+key, "%s can be used by other accounts (mode %#o)", key, keyInfo.Mode().Perm())
	default:
		d.say(OK, "data directory", "%s", d.Data)
	}
}

// A full disk stops a node, and the journal of the whole cluster before that.
const (
	diskWarn = 2 << 30
	diskFail = 256 << 20
)

func (d *Doctor) disk() {
	free, all, err := space(d.Data)
	if err != nil {
		d.fault(Warn, "disk", err, "")
		return
	}
	const gib = 1 << 30
	level := OK
	switch {
	case free < diskFail:
		level = Fail
	case free < diskWarn || free < all/20:
		level = Warn
	}
	do := "make room, or move the data directory to a larger disk"
	if level == OK {
		do = ""
	}
	d.tell(level, "disk", do, "%.1f of %.1f GiB are free", float64(free)/gib, float64(all)/gib)
}

func (d *Doctor) journal(st admin.Status) {
	if st.Problem != "" {
		d.tell(Fail, "journal", "start the nodes that are not up: the journal needs a majority of its voters", "%s", st.Problem)
		return
	}
	voters, down := 0, []string{}
	for _, m := range st.Journal {
		if m.Voter {
			voters++
		}
	}
	for _, n := range st.Nodes {
		if n.Enabled && !n.Up {
			down = append(down, string(n.Name))
		}
	}
	switch full := st.Full(); {
	case full != "":
		d.tell(Fail, "journal", "the node of its leader removes old entries and makes room within minutes, or logs what keeps it from that; git cluster repo delete removes what nobody needs", "it takes no writes: it is full on %s", full)
	case len(down) > 0:
		d.tell(Warn, "journal", "start them, or disable those that are gone for good", "not up: %s", strings.Join(down, ", "))
	case voters > 0 && len(st.Nodes) >= 3 && voters < 3:
		d.tell(Warn, "journal", "wait until a third server has caught up; it is promoted by itself", "%d voters: it stops when one of them does", voters)
	case voters == 0:
		d.say(OK, "journal", "an etcd of its own")
	default:
		d.say(OK, "journal", "%d voters of %d servers", voters, len(st.Journal))
	}
}

// trusted looks whether the nodes' own addresses are ones from which their keys
// count: nodes are devices to each other.
func (d *Doctor) trusted(ctx context.Context, st admin.Status) {
	var networks []netip.Prefix
	for _, text := range st.Trusted {
		if p, err := netip.ParsePrefix(text); err == nil {
			networks = append(networks, p)
		} else {
			d.fault(Warn, "trusted networks", err, "")
		}
	}
	outside := false
	for _, n := range st.Nodes {
		host, _, err := net.SplitHostPort(n.SSH)
		if err != nil || !n.Enabled {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		cancel()
		if err != nil {
			d.fault(Warn, "trusted networks", err, "see that "+host+" has an address")
			continue
		}
		for _, a := range addrs {
			if !contains(networks, a.Unmap()) {
				outside = true
				d.tell(Warn, "trusted networks", "if it connects to the others from that address they refuse it; the networks were set by `git cluster init --trusted-network`",
					"node %s is at %v, which is in none of them", n.Name, a.Unmap())
				break
			}
		}
	}
	if !outside {
		d.say(OK, "trusted networks", "%s", strings.Join(st.Trusted, ", "))
	}
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	for _, p := range networks {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
