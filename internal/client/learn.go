package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/address"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/nodecache"
	"gitcluster/internal/remotehelper"
	"gitcluster/internal/replica"
)

// Replicas returns the replicas that the helper would try for an address now, the
// best first. It connects to none.
func Replicas(ctx context.Context, text string, getenv func(string) string) ([]replica.Candidate, error) {
	addr, err := address.Parse(text)
	if err != nil {
		return nil, err
	}
	c := &connector{Params: Params{Getenv: getenv, Cache: nodecache.Open(), LookupSRV: net.DefaultResolver.LookupSRV}}
	all, _, err := c.candidates(ctx, addr)
	return all, err
}

// candidates finds the replicas for an address, and the configuration's sync-wait.
func (c *connector) candidates(ctx context.Context, addr address.Address) ([]replica.Candidate, time.Duration, error) {
	path := c.Config
	if path == "" {
		path = config.ClientPath()
	}
	conf, err := config.LoadClient(path)
	if errors.Is(err, os.ErrNotExist) && addr.Hosts != nil {
		err = nil // an address with hosts needs no configuration
	}
	if err != nil {
		return nil, 0, err
	}
	q := replica.Query{
		Address: addr, Config: conf, Pin: c.Getenv(replica.EnvReplica), Services: c.services(ctx, addr), Now: time.Now(),
		Nodes: c.Cache.Nodes,
		Measured: func(addr string) (time.Duration, time.Time) {
			m := c.Cache.Measure(addr)
			return m.Answers, m.AvoidUntil()
		},
	}
	var wait time.Duration
	if k := q.Cluster(); k != nil {
		wait = k.SyncWait
	}
	all, err := replica.Find(q)
	for i, candidate := range all {
		c.trace.say("candidate %d: %v: %s", i+1, candidate, candidate.Why(time.Now()))
	}
	return all, wait, err
}

// known is the hash of the nodes that are known under a candidate's origin.
func (c *connector) known(candidate replica.Candidate) string {
	list, ok := c.Cache.Nodes(candidate.Origin)
	if !ok {
		return ""
	}
	return list.Hash()
}

// learn keeps what a node has said of its cluster's nodes. The connection is
// authenticated: whoever is trusted with the repositories is trusted with this, and
// what it says is used for addresses of the same origin alone, so that a node
// which was taken over can redirect nobody who has not named its cluster.
func (c *connector) learn(from replica.Candidate, conn transport, answer syncAnswer) {
	var list *cluster.NodeList
	if len(answer.Nodes) > 0 {
		list = &cluster.NodeList{Cluster: answer.Cluster, Nodes: answer.Nodes}
		c.trace.say("%v: has told of %d nodes", from, len(answer.Nodes))
	}
	var by *nodecache.Voucher
	if !from.Learned() {
		by = &nodecache.Voucher{Addr: from.Addr}
		if shown, ok := conn.(interface{ HostKey() ssh.PublicKey }); ok {
			by.Key = ssh.FingerprintSHA256(shown.HostKey())
		}
	}
	c.Cache.Learn(from.Origin, list, by)
}

// srvLimit bounds the question to the DNS, for whose answer everything waits. An
// answer holds for srvLife; for srvFailure nobody asks again after there was none.
const (
	srvLimit   = time.Second
	srvLife    = 10 * time.Minute
	srvFailure = time.Minute
)

// services asks the DNS where the cluster of "cluster://domain/repo" is: by
// records of _git-cluster._tcp, as RFC 2782 has it. It is not asked for an address
// with a port, with several hosts, or for an IP address.
//
// Nothing protects such an answer, and the host key that is then expected is that
// of the host it names. So it may only name hosts of the domain itself: else
// whoever can forge it could send a push to a host of their own that the user
// happens to know.
func (c *connector) services(ctx context.Context, addr address.Address) (all []replica.Service) {
	if len(addr.Hosts) != 1 || addr.Hosts[0].Port != 0 || c.LookupSRV == nil {
		return nil
	}
	domain := strings.ToLower(strings.TrimSuffix(addr.Hosts[0].Name, "."))
	if net.ParseIP(domain) != nil || !strings.Contains(domain, ".") || strings.Contains(domain, ":") {
		return nil
	}
	answers, ok := c.Cache.Lookup(domain)
	if !ok {
		start := time.Now()
		ctx, cancel := context.WithTimeout(ctx, srvLimit)
		defer cancel()
		_, records, err := c.LookupSRV(ctx, "git-cluster", "tcp", domain+".") // and nowhere below this machine's own domain
		c.trace.say("the DNS has %d records for _git-cluster._tcp.%s after %s, error %v", len(records), domain, since(start), err)
		for _, r := range records { // by priority, and by weight at random
			answers = append(answers, fmt.Sprintf("%d %s:%d", r.Priority, strings.ToLower(strings.TrimSuffix(r.Target, ".")), r.Port))
		}
		var notFound *net.DNSError
		if err == nil || errors.As(err, &notFound) && notFound.IsNotFound {
			c.Cache.LookedUp(domain, answers, srvLife)
		} else {
			c.Cache.LookedUp(domain, nil, srvFailure)
		}
	}
	for _, answer := range answers {
		number, place, _ := strings.Cut(answer, " ")
		priority, numberErr := strconv.ParseUint(number, 10, 16)
		host, err := address.ParseHost(place)
		if err = errors.Join(err, numberErr); err != nil || host.Name != domain && !strings.HasSuffix(host.Name, "."+domain) {
			c.trace.say("the DNS names %q for %s, which is not of that domain; left out", answer, domain)
			continue
		}
		all = append(all, replica.Service{Host: host, Priority: uint16(priority)})
	}
	return all
}

// Bounds of what is done to know the distance of the other replicas.
const (
	maxProbes  = 8
	probeLimit = 2 * time.Second
)

// probe measures, while Git is busy, the replicas whose distance was not seen
// lately: it connects to each, waits for the first byte, with which an SSH server introduces
// itself, and sends none. It does so only beside a node's own server: OpenSSH's
// takes who goes away like that for an attacker, and after some of it refuses the
// address for a while.
func (c *connector) probe(ctx context.Context, found *stream, all []replica.Candidate, o remotehelper.Options) {
	if c.Cache == nil || !isNode(found.conn) || !direct(found.conn) {
		return // or it goes through another machine, and so would they
	}
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	var running sync.WaitGroup
	n := 0
	for _, candidate := range all {
		m := c.Cache.Measure(candidate.Addr)
		if !m.Stale(time.Now()) || m.Failures > 0 || candidate.Addr == found.replica.Addr {
			continue
		}
		if n++; n > maxProbes {
			break
		}
		running.Go(func() {
			took, err := introduction(ctx, network(o), candidate.Addr)
			if err != nil {
				return // it says nothing about another time
			}
			c.trace.say("%v: would have answered after %s", candidate, milliseconds(took))
			c.Cache.Heard(candidate.Addr, took)
		})
	}
	go func() {
		running.Wait()
		cancel()
	}()
}

// introduction is how long a server takes to introduce itself.
func introduction(ctx context.Context, network, addr string) (time.Duration, error) {
	start := time.Now()
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_, err = conn.Read(make([]byte, 1))
	return time.Since(start), err
}

// network is the address family Git was told to use.
func network(o remotehelper.Options) string {
	switch o.Family {
	case "ipv4":
		return "tcp4"
	case "ipv6":
		return "tcp6"
	}
	return "tcp"
}
