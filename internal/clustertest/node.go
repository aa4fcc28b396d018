package clustertest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gitcluster/internal/admin"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// A Node is one node's process and its data directory.
type Node struct {
	Name string
	SSH  string // host:port
	HTTP string // host:port
	Data string

	Env []string // set for its process beside a bare environment
	Bin string   // folder of its program, if not the cluster's

	cluster      *Cluster
	peer, client string
	log          string
	process      atomic.Pointer[life]
}

// A life is one run of a node's process.
type life struct {
	pid   int
	end   context.CancelFunc
	ended chan struct{}
	err   error
	ready chan struct{}

	mu    sync.Mutex
	holds int // how many want it stopped
}

// NewNode names a node and draws its addresses. It makes and starts nothing.
func (c *Cluster) NewNode(name string) (*Node, error) {
	var addrs []string
	var err error
	if c.links != nil {
		addrs, err = c.links.add(name)
	} else {
		addrs, err = c.net.draw(4)
	}
	if err != nil {
		return nil, err
	}
	return &Node{
		Name: name, SSH: addrs[0], HTTP: addrs[1], peer: addrs[2], client: addrs[3],
		Data: filepath.Join(c.dir, name), log: filepath.Join(c.dir, name+".log"), cluster: c, Env: slices.Clone(c.env),
	}, nil
}

// Settings is the command line of "git-cluster init" or "join" for the node.
func (n *Node) Settings(args ...string) []string {
	return append(append(append(n.cluster.links.enter(n.Name), "git-cluster"), args...),
		"--data", n.Data, "--name", n.Name, "--ssh", n.SSH, "--http", n.HTTP, "--journal-peer", n.peer, "--journal-client", n.client)
}

// URL is the node's web address followed by a path, "https://host:port/path".
func (n *Node) URL(path string) string { return "https://" + n.HTTP + "/" + path }

// Certificate is the file with the certificate of its HTTPS front.
func (n *Node) Certificate() string { return filepath.Join(n.Data, "http", "cert.pem") }

// startLimit is far more than a start takes on a machine that other tests use, too.
const startLimit = 2 * time.Minute

// Start starts the node and waits until it serves.
func (n *Node) Start() error {
	if err := n.Launch(); err != nil {
		return err
	}
	return n.AwaitReady(startLimit)
}

// Launch starts the node's process and does not wait.
func (n *Node) Launch() error {
	if n.Running() {
		return fmt.Errorf("%s runs already", n.Name)
	}
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	l := &life{ended: make(chan struct{}), ready: make(chan struct{})}
	// The node tells as it tells systemd.
	notify := filepath.Join(n.cluster.dir, n.Name+".notify")
	if err := os.RemoveAll(notify); err != nil {
		return err
	}
	heard, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.end = cancel
	c := gitcmd.Command{
		Args: append(n.cluster.links.enter(n.Name), filepath.Join(cmp.Or(n.Bin, n.cluster.Bin), "git-cluster"), "serve", "--data", n.Data),
		Env:  append(bare(n.cluster), append([]string{"NOTIFY_SOCKET=" + notify}, n.Env...)...),
		Dir:  n.cluster.dir,
	}
	p, err := new(gitexec.Runner).Start(ctx, c, gitexec.IO{Stdout: log, Stderr: log})
	if err != nil {
		cancel()
		heard.Close()
		return err
	}
	l.pid = p.PID()
	go func() {
		buf := make([]byte, 64)
		if size, err := heard.Read(buf); err == nil && string(buf[:size]) == "READY=1" {
			close(l.ready)
		}
	}()
	go func() {
		l.err = p.Wait()
		heard.Close()
		close(l.ended)
	}()
	n.process.Store(l)
	return nil
}

// AwaitReady waits until the launched node says that it serves.
func (n *Node) AwaitReady(limit time.Duration) error {
	l := n.process.Load()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-l.ready:
		if l.goesOn() { // of two that are ready, select takes any
			return nil
		}
	case <-l.ended:
	case <-timer.C:
		return fmt.Errorf("%s does not serve after %v; its log:\n%s", n.Name, limit, n.Log())
	}
	return fmt.Errorf("%s ended at its start: %w", n.Name, errors.Join(l.err, errors.New(n.Log())))
}

// Ready reports whether the node has said that it serves.
func (n *Node) Ready() bool {
	select {
	case <-n.process.Load().ready:
		return true
	default:
		return false
	}
}

// Running reports whether the process is there.
func (n *Node) Running() bool {
	l := n.process.Load()
	return l != nil && l.goesOn()
}

func (l *life) goesOn() bool {
	select {
	case <-l.ended:
		return false
	default:
		return true
	}
}

// PID is the process's id.
func (n *Node) PID() int { return n.process.Load().pid }

// Kill ends the process as a power cut would.
func (n *Node) Kill() {
	if !n.Running() {
		return
	}
	l := n.process.Load()
	syscall.Kill(l.pid, syscall.SIGKILL) // an error means that it is gone already
	<-l.ended
	l.end()
}

// Pause stops the process without ending it; Resume lets it go on.
func (n *Node) Pause() error  { return syscall.Kill(n.PID(), syscall.SIGSTOP) }
func (n *Node) Resume() error { return syscall.Kill(n.PID(), syscall.SIGCONT) }

// Hold is Pause for several who do not know of each other: the process goes on when
// all have released it. One that is not there, or ends meanwhile, is no error.
func (n *Node) Hold() (release func()) {
	l := n.process.Load()
	if l == nil || !l.goesOn() {
		return func() {}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holds++
	syscall.Kill(l.pid, syscall.SIGSTOP)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.holds--; l.holds == 0 && l.goesOn() {
			syscall.Kill(l.pid, syscall.SIGCONT)
		}
	}
}

// Stop ends the node with SIGTERM and returns how it ended.
func (n *Node) Stop(limit time.Duration) error {
	l := n.process.Load()
	syscall.Kill(l.pid, syscall.SIGTERM)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-l.ended:
		return l.err
	case <-timer.C:
		n.Kill()
		return fmt.Errorf("%s did not stop within %v", n.Name, limit)
	}
}

// Log returns what the node has logged.
func (n *Node) Log() string {
	data, err := os.ReadFile(n.log)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Status asks the node over its socket.
func (n *Node) Status() (st admin.Status, err error) {
	r := n.cluster.Admin.Run("", "git-cluster", "status", "--json", "--data", n.Data)
	if err := r.Err(); err != nil {
		return st, err
	}
	return st, json.Unmarshal([]byte(r.Stdout), &st)
}

// A network draws addresses that no other process of this machine uses by
// chance. On Linux every cluster has a loopback address of its own: a port of
// 127.0.0.1 that a killed node leaves may become the near end of somebody's
// connection before the node is started again.
type network struct{ host string }

var networks atomic.Uint32

func newNetwork() network {
	if runtime.GOOS != "linux" {
		return network{"127.0.0.1"}
	}
	pid := uint32(os.Getpid())
	return network{fmt.Sprintf("127.%d.%d.%d", 64+pid>>8%128, pid%256, 1+networks.Add(1)%250)}
}

func (w network) draw(n int) ([]string, error) {
	var all []string
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(w.host, "0"))
		if err != nil {
			return nil, err
		}
		defer l.Close() // held until all are drawn, so that no two are the same
		all = append(all, l.Addr().String())
	}
	return all, nil
}
