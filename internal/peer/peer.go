// Package peer is how nodes reach each other: over SSH, as devices, on
// connections that stay open.
//
// Entry points: [Peers.Pack] fetches objects from another node, [Peers.Taker] has
// one take a copy of a push, and [Peers.Nearest] orders the nodes, for the engine;
// [ServePack] and [ServeCopy] are the other side, run by the node that is asked.
//
// It promises that a node is trusted by the key in the journal's directory and
// by nothing else, that a pack that ends without an error is whole, and that a peer that does
// not answer costs a bounded time.
package peer

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/sshclient"
)

// PackCommand is the command line, before the repository's id, by which a node
// asks another for objects.
const PackCommand = "cluster-peer-pack"

// Peers is the other nodes as this one sees them.
type Peers struct {
	self      cluster.DeviceName
	region    string
	signer    ssh.Signer
	directory func() *access.Directory

	ctx   context.Context // of all connections
	close context.CancelFunc
	mu    sync.Mutex
	links map[cluster.DeviceName]*link
}

// A link is the connection to one node and what is known of how it does.
type link struct {
	conn   *sshclient.Conn
	addr   string
	dial   *dial         // what goes on; nil if nothing does
	took   time.Duration // of the last connection attempt
	failed time.Time     // when the node last did not answer
}

// A dial is one connection attempt, for all who need the connection.
type dial struct {
	addr string
	done chan struct{} // closed when conn or err is there
	conn *sshclient.Conn
	err  error
}

// New returns the peers of the node self.
func New(self cluster.DeviceName, region string, signer ssh.Signer, directory func() *access.Directory) *Peers {
	ctx, stop := context.WithCancel(context.Background())
	return &Peers{self: self, region: region, signer: signer, directory: directory, ctx: ctx, close: stop, links: map[cluster.DeviceName]*link{}}
}

// Close ends all connections.
func (p *Peers) Close() {
	p.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		if l.conn != nil {
			l.conn.Close()
		}
	}
}

// badFor is how long a node that did not answer is asked after the others.
const badFor = 10 * time.Second

// Nearest lists the other enabled nodes that have served: those of this node's region first, then
// by the time it took to connect; those that did not answer lately come last.
func (p *Peers) Nearest() []cluster.DeviceName {
	nodes := slices.DeleteFunc(p.directory().Nodes(), func(d cluster.Device) bool {
		return d.Name == p.self || !d.Enabled || d.New
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	rank := func(d cluster.Device) (bad, far int, took time.Duration) {
		if l := p.links[d.Name]; l != nil {
			took = l.took
			if time.Since(l.failed) < badFor {
				bad = 1
			}
		}
		if d.Region != p.region {
			far = 1
		}
		return bad, far, took
	}
	slices.SortStableFunc(nodes, func(a, b cluster.Device) int {
		badA, farA, tookA := rank(a)
		badB, farB, tookB := rank(b)
		return cmp.Or(cmp.Compare(badA, badB), cmp.Compare(farA, farB), cmp.Compare(tookA, tookB))
	})
	names := make([]cluster.DeviceName, len(nodes))
	for i, d := range nodes {
		names[i] = d.Name
	}
	return names
}

// Pack streams a pack of what wants reach and haves do not from another node.
func (p *Peers) Pack(ctx context.Context, from cluster.DeviceName, id cluster.RepoID, wants, haves []cluster.OID) (io.ReadCloser, error) {
	conn, err := p.connect(ctx, from)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{cancel: cancel}
	s.session, err = conn.Start(ctx, PackCommand+" "+string(id), nil, &s.stderr)
	if err != nil {
		cancel()
		if !errors.Is(err, sshclient.ErrRefused) {
			p.drop(from, conn) // other packs are on their way on a connection that only refused one more
		}
		return nil, err
	}
	go func() {
		// The answer comes only after the whole question, so writing it must
		// not wait for reading.
		err := writeQuestion(s.session, wants, haves)
		if err == nil {
			err = s.session.CloseWrite()
		}
		if err != nil {
			s.session.Close()
		}
	}()
	return s, nil
}

// stream is a pack on its way. A failure of the other side comes in place of
// the end.
type stream struct {
	session *sshclient.Session
	stderr  tail
	cancel  context.CancelFunc
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.session.Read(b)
	if err != io.EOF {
		return n, err
	}
	status, err := s.session.Wait()
	switch {
	case err != nil:
		return n, err
	case status != 0:
		return n, fmt.Errorf("the peer failed with status %d: %s", status, s.stderr.String())
	}
	return n, io.EOF
}

func (s *stream) Close() error {
	s.cancel()
	return s.session.Close()
}

// connect returns the open connection to a node, or makes one.
func (p *Peers) connect(ctx context.Context, name cluster.DeviceName) (*sshclient.Conn, error) {
	device, ok := p.directory().Device(name)
	if !ok || !device.Node || !device.Enabled {
		return nil, fmt.Errorf("node %q: %w", name, cluster.ErrNotFound)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(device.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("node %q: its key: %w", name, err)
	}
	p.mu.Lock()
	l := p.links[name]
	if l == nil {
		l = &link{}
		p.links[name] = l
	}
	if l.conn != nil && l.addr == device.SSH {
		select {
		case <-l.conn.Done():
		default:
			defer p.mu.Unlock()
			return l.conn, nil
		}
	}
	d := l.dial
	if d == nil || d.addr != device.SSH {
		d = &dial{addr: device.SSH, done: make(chan struct{})}
		l.dial = d
		go p.dial(l, d, key)
	}
	p.mu.Unlock()
	select {
	case <-d.done:
		return d.conn, d.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// dial connects. It goes on when whoever needed it first has left: others wait
// for it, too.
func (p *Peers) dial(l *link, d *dial, key ssh.PublicKey) {
	start := time.Now()
	conn, err := sshclient.Dial(p.ctx, sshclient.Options{
		Addr: d.addr, User: "git", Signers: []ssh.Signer{p.signer}, HostKey: key,
		ConnectTimeout: 3 * time.Second, HandshakeTimeout: 5 * time.Second, KeepAlive: 5 * time.Second, Version: "gitcluster_node",
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(d.done)
	switch {
	case err != nil:
	case p.ctx.Err() != nil:
		conn.Close()
		err = context.Cause(p.ctx)
	case l.dial != d:
		conn.Close()
		err = fmt.Errorf("the node is no longer at %s", d.addr)
	default:
		d.conn = conn
	}
	d.err = err
	if l.dial != d {
		return
	}
	if l.conn != nil {
		l.conn.Close()
	}
	l.dial, l.conn, l.addr, l.took, l.failed = nil, d.conn, d.addr, time.Since(start), time.Time{}
	if err != nil {
		l.failed = time.Now()
	}
}

// drop gives up a connection on which a command could not be started.
func (p *Peers) drop(name cluster.DeviceName, conn *sshclient.Conn) {
	conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.links[name]; l != nil && l.conn == conn {
		l.conn, l.failed = nil, time.Now()
	}
}

// A PackWriter writes the pack that was asked for.
type PackWriter interface {
	WritePack(ctx context.Context, id cluster.RepoID, wants, haves []cluster.OID, w io.Writer) error
}

// maxQuestion bounds the objects named in one question.
const maxQuestion = 2_000_000

// ServePack reads another node's question and writes the pack.
func ServePack(ctx context.Context, from PackWriter, id cluster.RepoID, r io.Reader, w io.Writer) error {
	var wants, haves []cluster.OID
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		kind, text, _ := strings.Cut(lines.Text(), " ")
		if kind == "done" {
			return from.WritePack(ctx, id, wants, haves, w)
		}
		oid, err := cluster.ParseOID(text)
		if err != nil {
			return err
		}
		switch kind {
		case "want":
			wants = append(wants, oid)
		case "have":
			haves = append(haves, oid)
		default:
			return fmt.Errorf("unexpected line of %d bytes from a peer", len(lines.Bytes()))
		}
		if len(wants)+len(haves) > maxQuestion {
			return fmt.Errorf("a peer named more than %d objects", maxQuestion)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}

func writeQuestion(w io.Writer, wants, haves []cluster.OID) error {
	b := bufio.NewWriterSize(w, 32<<10)
	for _, oid := range wants {
		b.WriteString("want " + string(oid) + "\n")
	}
	for _, oid := range haves {
		b.WriteString("have " + string(oid) + "\n")
	}
	b.WriteString("done\n")
	return b.Flush()
}

// tail keeps the first kilobyte of what the peer says went wrong.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b.Write(p[:min(len(p), max(0, 1024-t.b.Len()))])
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(t.b.String())
}
