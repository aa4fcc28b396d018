package sshserver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/access"
	"gitcluster/internal/session"
)

// A conn is one client's connection.
type conn struct {
	server *Server
	net    *heardConn
	remote netip.AddrPort
	log    *slog.Logger
	login  login
	cancel context.CancelFunc // ends everything on the connection

	mu       sync.Mutex
	running  int  // commands
	draining bool // no new commands; end after the last
}

// serveConn takes one connection from its first byte to its last.
func (s *Server) serveConn(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	remote := addrPort(nc.RemoteAddr())
	log := s.log.With("remote", remote.String())
	from := access.Source(remote.Addr())
	if full := s.admit.enter(from); full != "" {
		log.Warn("connection closed: too many", "limit", full)
		return
	}
	defer s.admit.leave()
	stranger := sync.OnceFunc(func() { s.admit.known(from) })
	defer stranger()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &conn{server: s, net: &heardConn{Conn: nc}, remote: remote, log: log, cancel: cancel}
	if !s.addConn(c) {
		return
	}
	defer s.dropConn(c)
	// Whatever ends the context ends the connection, and with it every read and
	// write that waits on it.
	defer context.AfterFunc(ctx, func() { nc.Close() })()

	// The protocol library has no time limit of its own: without this one a
	// client that connects and says nothing would hold its place forever.
	if err := nc.SetDeadline(time.Now().Add(s.limits.AuthTime)); err != nil {
		log.Debug("connection lost", "error", err)
		return
	}
	authCtx, authCancel := context.WithTimeout(ctx, s.limits.AuthTime)
	sc, chans, reqs, who, err := s.authenticate(authCtx, c.net, remote)
	authCancel()
	if err != nil {
		level := slog.LevelDebug // port scanners, mostly
		if errors.Is(err, errRefused) {
			level = slog.LevelInfo
		}
		log.Log(ctx, level, "login refused", "error", err)
		return
	}
	defer sc.Close()
	if err := nc.SetDeadline(time.Time{}); err != nil {
		log.Debug("connection lost", "error", err)
		return
	}
	if who.joining {
		// Anybody can log in this way, so these connections have a bound of
		// their own, in number and in time.
		if !s.admit.enterJoin() {
			log.Warn("connection closed: too many", "limit", "joining connections")
			return
		}
		defer s.admit.leaveJoin()
		defer time.AfterFunc(s.limits.JoinTime, cancel).Stop()
	}
	stranger()
	c.login = who
	c.log = log.With("identity", who.identity.String())
	if who.joining {
		c.log = log.With("login", JoinUser, "key", ssh.FingerprintSHA256(who.key))
	}
	c.log.Debug("logged in", "client", string(sc.ClientVersion()))

	var parts sync.WaitGroup
	defer parts.Wait() // after the cancel below
	defer cancel()
	parts.Go(func() { answerGlobal(reqs) })
	parts.Go(func() { c.keepAlive(ctx, sc) })
	open := make(chan struct{}, c.maxChannels())
	for nc := range chans {
		if kind := nc.ChannelType(); kind != "session" && kind != session.CommandChannel {
			// Forwarding would turn the node into a way around its firewall.
			nc.Reject(ssh.UnknownChannelType, "only sessions are served")
			continue
		}
		select {
		case open <- struct{}{}:
		default:
			nc.Reject(ssh.ResourceShortage, "too many sessions on this connection")
			continue
		}
		parts.Go(func() {
			defer func() { <-open }()
			c.serveChannel(ctx, nc)
		})
	}
	c.log.Debug("connection ended")
}

func (c *conn) maxChannels() int {
	switch {
	case c.login.joining:
		return 1
	case c.login.identity.Device != "":
		return c.server.limits.DeviceChannels
	}
	return c.server.limits.UserChannels
}

// begin counts a command that is about to run, unless the node is stopping.
func (c *conn) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return false
	}
	c.running++
	return true
}

// finish is begin's counterpart, after the client was told the exit status.
func (c *conn) finish() {
	c.mu.Lock()
	c.running--
	last := c.draining && c.running == 0
	c.mu.Unlock()
	if last {
		// The client ends the connection once it has read the exit status.
		// Ending it first could reset it, and take the status away.
		time.AfterFunc(linger, c.cancel)
	}
}

// linger is how long a client of a stopping node has to hang up.
const linger = 500 * time.Millisecond

// drain refuses further commands and ends the connection when none runs.
func (c *conn) drain() {
	c.mu.Lock()
	c.draining = true
	last := c.running == 0
	c.mu.Unlock()
	if last {
		c.cancel()
	}
}

func (c *conn) end() { c.cancel() }

// answerGlobal refuses requests that concern the whole connection, such as
// forwarding. A refusal is all that keepalive@openssh.com asks for, too: it
// only wants to hear something.
func answerGlobal(reqs <-chan *ssh.Request) {
	for r := range reqs {
		if r.WantReply {
			r.Reply(false, nil)
		}
	}
}

// keepAlive closes the connection of a client that has been silent for several
// intervals, although it was asked to say something: its machine or the path to
// it is gone, and TCP might take hours to notice.
func (c *conn) keepAlive(ctx context.Context, sc *ssh.ServerConn) {
	tick := time.NewTicker(c.server.limits.KeepAlive)
	defer tick.Stop()
	answered := make(chan error, 1)
	asking, misses := false, 0
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-answered:
			if err != nil {
				return // the connection is gone
			}
			asking, misses = false, 0
			continue
		case <-tick.C:
		}
		if c.net.heard.Swap(false) {
			// An upload may well delay the answer; the upload itself is a sign
			// of life.
			misses = 0
		} else if asking {
			misses++
		}
		if misses >= c.server.limits.KeepAliveMisses {
			c.log.Info("connection closed: the client does not answer")
			c.cancel()
			return
		}
		if !asking {
			asking = true
			// Apart, because the request itself waits where the client does not
			// read. It ends with the connection at the latest.
			go func() {
				_, _, err := sc.SendRequest("keepalive@openssh.com", true, nil)
				answered <- err
			}()
		}
	}
}

// heardConn notes when anything arrives.
type heardConn struct {
	net.Conn
	heard atomic.Bool
}

func (h *heardConn) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	if n > 0 {
		h.heard.Store(true)
	}
	return n, err
}

// addrPort is the address of a client, IPv4 in its plain form; the zero value
// where it has none.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
