package httpserver

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"gitcluster/internal/access"
)

// Limits bound what clients can hold. Zero fields stand for the defaults.
type Limits struct {
	Connections    int // open at once; 4096
	ConnectionsOne int // the same, of one address (IPv6: one /64); a quarter of Connections
	Streams        int // requests at once on one HTTP/2 connection; 32
	HeaderBytes    int // of a request; 32 KiB

	HeaderTime time.Duration // for TLS, and for a request's header; 10 s
	Idle       time.Duration // between two requests on a connection; 2 min
	// Stall is how long a client may neither send what it announced nor take what it asked
	// for; 60 s. What the server does meanwhile does not count.
	Stall time.Duration
	// PushStall is Stall for the body of a push: the client may compress for long
	// between two bytes, and has been let in; 15 min.
	PushStall time.Duration
}

func (l Limits) withDefaults() Limits {
	number := func(n *int, def int) {
		if *n <= 0 {
			*n = def
		}
	}
	duration := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	number(&l.Connections, 4096)
	number(&l.ConnectionsOne, max(1, l.Connections/4))
	number(&l.Streams, 32)
	number(&l.HeaderBytes, 32<<10)
	duration(&l.HeaderTime, 10*time.Second)
	duration(&l.Idle, 2*time.Minute)
	duration(&l.Stall, time.Minute)
	duration(&l.PushStall, 15*time.Minute)
	return l
}

// admission counts connections against the limits.
type admission struct {
	limits Limits

	mu   sync.Mutex
	all  int
	from map[netip.Prefix]int
}

func newAdmission(l Limits) *admission {
	return &admission{limits: l, from: map[netip.Prefix]int{}}
}

func (a *admission) enter(from netip.Prefix) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all >= a.limits.Connections || a.from[from] >= a.limits.ConnectionsOne {
		return false
	}
	a.all++
	a.from[from]++
	return true
}

func (a *admission) leave(from netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all--
	if a.from[from]--; a.from[from] == 0 {
		delete(a.from, from)
	}
}

// listener closes what is too much as it comes.
func (a *admission) listener(ln net.Listener) net.Listener { return &admitting{ln, a} }

type admitting struct {
	net.Listener
	admit *admission
}

func (l *admitting) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var from netip.Prefix
		if tcp, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			from = access.Source(tcp.AddrPort().Addr())
		}
		if l.admit.enter(from) {
			return &admitted{Conn: c, leave: sync.OnceFunc(func() { l.admit.leave(from) })}, nil
		}
		c.Close()
	}
}

type admitted struct {
	net.Conn
	leave func()
}

func (c *admitted) Close() error {
	c.leave()
	return c.Conn.Close()
}
