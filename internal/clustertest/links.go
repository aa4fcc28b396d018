package clustertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// Clients is the name under which [Links] knows everybody who is no node.
const Clients = "clients"

// Links is the network of a cluster whose nodes are machines of their own, as far
// as the network goes: what one sends to another can be dropped on the way.
//
// Every node has a network namespace with one interface on a common bridge, which
// is in the namespace of the test itself. [Enclose] gives it that. On it a node has an
// address for each [Net].
type Links struct {
	dir string // names the namespaces; a file each

	mu   sync.Mutex
	made []string // the nodes; the first is 10.77.0.1
	cuts map[link]int
}

// A Net is one of the networks that every node is on, and can be cut from alone.
type Net int

const (
	Fronts   Net = iota // SSH and HTTPS, of clients and of nodes with each other
	Journals            // the journal's servers
)

var nets = []Net{Fronts, Journals}

// A link leads one way; how many want it cut is counted.
type link struct {
	from, to string
	net      Net
}

// envEnclosed marks a process that [Enclose] has started.
const envEnclosed = "GIT_CLUSTER_TEST_ENCLOSED"

// Enclose runs this program again, with the same arguments, in a network and a
// mount namespace of its own, where it may make [Links] and mount small disks, and
// which vanish with it. inside is true in that second run, which goes on; the first
// gets the status to exit with. An error says why this machine does not permit it.
func Enclose(ctx context.Context) (inside bool, status int, err error) {
	if os.Getenv(envEnclosed) != "" {
		return true, 0, run("ip", "link", "set", "lo", "up")
	}
	words := []string{"unshare", "--net", "--mount"}
	if os.Geteuid() != 0 {
		words = append(words, "--map-root-user")
	}
	try := func(rest ...string) gitcmd.Command {
		return gitcmd.Command{Args: append(slices.Clone(words), rest...), Env: append(os.Environ(), envEnclosed+"=1")}
	}
	if err := new(gitexec.Runner).Run(ctx, try("ip", "link", "add", "try", "type", "bridge"), gitexec.IO{}); err != nil {
		return false, 0, fmt.Errorf("no network namespaces here: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return false, 0, err
	}
	err = new(gitexec.Runner).Run(ctx, try(append([]string{self}, os.Args[1:]...)...), gitexec.IO{Stdout: os.Stdout, Stderr: os.Stderr})
	return false, gitexec.Status(err), nil
}

// NewLinks makes a network without nodes. Its program must be [Enclose]d, and makes
// one of them.
func NewLinks() (*Links, error) {
	if os.Getenv(envEnclosed) == "" {
		return nil, errors.New("links need an enclosed program")
	}
	dir, err := os.MkdirTemp("", "gc-net-")
	if err != nil {
		return nil, err
	}
	l := &Links{dir: dir, cuts: map[link]int{}}
	err = run("ip", "link", "add", "nodes", "type", "bridge")
	for _, n := range nets {
		err = errors.Join(err, run("ip", "address", "add", l.host(Clients, n)+"/24", "dev", "nodes"))
	}
	return l, errors.Join(err, run("ip", "link", "set", "nodes", "up"))
}

// Close removes the network. Nodes must have ended.
func (l *Links) Close() error {
	err := run("ip", "link", "delete", "nodes")
	for i, name := range l.made {
		// Its other end, and a namespace, would go by themselves, but not at once.
		err = errors.Join(err, run("ip", "link", "delete", outer(i)), run("umount", l.namespace(name)))
	}
	return errors.Join(err, os.RemoveAll(l.dir))
}

// On has the nodes of a cluster on these links.
func On(l *Links) Setting { return func(c *Cluster) { c.links = l } }

// Built has a cluster made of the programs in a folder, instead of [Programs].
func Built(bin string) Setting { return func(c *Cluster) { c.Bin = bin } }

// add makes a namespace for a node. It returns where the node can listen, two addresses in
// each net: nobody else has a port there.
func (l *Links) add(node string) (addrs []string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made = append(l.made, node)
	file, outer := l.namespace(node), outer(len(l.made)-1)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return nil, err
	}
	for _, n := range nets {
		addrs = append(addrs, l.host(node, n)+":2200", l.host(node, n)+":2201")
	}
	inside := func(words ...string) error { return run(append([]string{"nsenter", "--net=" + file}, words...)...) }
	return addrs, firstError(
		func() error { return run("unshare", "--net="+file, "true") },
		func() error { return run("ip", "link", "add", outer, "type", "veth", "peer", "name", "inner") },
		func() error { return run("ip", "link", "set", "inner", "netns", file) },
		func() error { return run("ip", "link", "set", outer, "master", "nodes", "up") },
		func() error { return inside("ip", "link", "set", "lo", "up") },
		// Each net has a route of its own, so what a node sends to an address in one
		// bears its own address there, and so does the answer.
		func() error { return inside("ip", "address", "add", l.host(node, Fronts)+"/24", "dev", "inner") },
		func() error { return inside("ip", "address", "add", l.host(node, Journals)+"/24", "dev", "inner") },
		func() error { return inside("ip", "link", "set", "inner", "up") })
}

func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (l *Links) namespace(node string) string { return filepath.Join(l.dir, node) }

// outer is the bridge's end of the link to the i-th node.
func outer(i int) string { return fmt.Sprintf("node%d", i+1) }

// host is the address of a node, or of the clients, in a net.
func (l *Links) host(name string, n Net) string {
	last := 254
	if i := slices.Index(l.made, name); i >= 0 {
		last = i + 1
	}
	return fmt.Sprintf("10.77.%d.%d", n, last)
}

// enter is the start of a command that runs where the node is.
func (l *Links) enter(name string) []string {
	if l == nil || name == Clients {
		return nil
	}
	return []string{"nsenter", "--net=" + l.namespace(name)}
}

// Cut has everything dropped that from sends to to in the given nets, or in all, without
// a word to either. Who cuts twice must heal twice.
func (l *Links) Cut(from, to string, in ...Net) error { return l.change(from, to, in, 1) }

// Heal undoes a Cut.
func (l *Links) Heal(from, to string, in ...Net) error { return l.change(from, to, in, -1) }

func (l *Links) change(from, to string, in []Net, by int) (err error) {
	if len(in) == 0 {
		in = nets
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range in {
		err = errors.Join(err, l.changeOne(link{from, to, n}, by))
	}
	return err
}

// changeOne counts one link up or down. The caller holds mu.
func (l *Links) changeOne(one link, by int) error {
	before := l.cuts[one]
	l.cuts[one] = before + by
	device := "inner"
	if one.from == Clients {
		device = "nodes"
	}
	words := append(l.enter(one.from), "ip", "neighbour")
	switch {
	case before == 0 && by > 0:
		// To an address that nobody has on the bridge: the packets get lost
		// there. A filter would need a tool that few machines have.
		return run(append(words, "replace", l.host(one.to, one.net), "lladdr", "02:00:00:00:00:01", "nud", "permanent", "dev", device)...)
	case before == 1 && by < 0:
		return run(append(words, "delete", l.host(one.to, one.net), "dev", device)...)
	}
	return nil
}

func run(words ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := new(gitexec.Runner).Run(ctx, gitcmd.Command{Args: words, Env: os.Environ()}, gitexec.IO{})
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(words, " "), err)
	}
	return nil
}
