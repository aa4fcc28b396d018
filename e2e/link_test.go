package e2e

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A link is a way to a server that delays what goes over it, and can be broken.
type link struct {
	addr   string
	target string
	delay  time.Duration // each way
	// what becomes of what the server says from now on:
	limit atomic.Int64 // bytes of one connection that pass; <0: all
	cut   atomic.Bool  // after them the connection is closed; else it stalls
	sent  atomic.Int64 // bytes that clients have sent
	// breakAt is how many of those pass before the next thing a server says closes its
	// connection instead; 0: any number
	breakAt atomic.Int64

	listener net.Listener
	work     sync.WaitGroup
	mu       sync.Mutex
	open     map[net.Conn]bool
	closed   bool
}

// newLink starts a link that ends with the test. host is where it listens.
func newLink(t testing.TB, host, target string, delay time.Duration) *link {
	t.Helper()
	l := &link{target: target, delay: delay, open: map[net.Conn]bool{}}
	l.limit.Store(-1)
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	l.addr = listener.Addr().String()
	l.listen(listener)
	t.Cleanup(l.close)
	return l
}

func (l *link) listen(listener net.Listener) {
	l.listener = listener
	l.work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			l.work.Go(func() { l.serve(conn) })
		}
	})
}

// close is a machine that refuses connections.
func (l *link) close() {
	l.listener.Close()
	l.mu.Lock()
	l.closed = true
	for c := range l.open {
		c.Close()
	}
	l.mu.Unlock()
	l.work.Wait()
}

// reopen listens again at the same address.
func (l *link) reopen(t testing.TB) {
	t.Helper()
	l.mu.Lock()
	l.closed = false
	l.mu.Unlock()
	l.limit.Store(-1)
	l.cut.Store(false)
	listener, err := net.Listen("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	l.listen(listener)
}

// hole makes a machine of the link that answers nothing at all, not even a
// connection, until the returned function is called: a socket whose queue of
// connections is full.
func (l *link) hole(t testing.TB) (heal func()) {
	t.Helper()
	l.close()
	addr, err := net.ResolveTCPAddr("tcp4", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(fd)
	var at syscall.SockaddrInet4
	at.Port = addr.Port
	copy(at.Addr[:], addr.IP.To4())
	syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if err := syscall.Bind(fd, &at); err != nil {
		t.Fatal(os.NewSyscallError("bind", err))
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(os.NewSyscallError("listen", err))
	}
	var fill []net.Conn
	for {
		c, err := net.DialTimeout("tcp", l.addr, 300*time.Millisecond)
		if err != nil {
			break
		}
		if fill = append(fill, c); len(fill) > 100 {
			t.Fatal("the queue of a socket does not fill")
		}
	}
	return func() {
		for _, c := range fill {
			c.Close()
		}
		syscall.Close(fd)
		l.reopen(t)
	}
}

func (l *link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		c.Close()
		return false
	}
	l.open[c] = true
	return true
}

func (l *link) drop(c net.Conn) {
	c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
}

func (l *link) serve(conn net.Conn) {
	if !l.keep(conn) {
		return
	}
	defer l.drop(conn)
	server, err := net.Dial("tcp", l.target)
	if err != nil || !l.keep(server) {
		return
	}
	defer l.drop(server)
	var both sync.WaitGroup
	both.Go(func() { l.pass(server, conn, false) })
	both.Go(func() { l.pass(conn, server, true) })
	both.Wait()
}

// pass copies one way, each piece delay later than it came.
func (l *link) pass(to, from net.Conn, limited bool) {
	type piece struct {
		data []byte
		due  time.Time
	}
	pieces := make(chan piece, 10_000)
	go func() {
		defer close(pieces)
		for {
			buf := make([]byte, 32<<10)
			n, err := from.Read(buf)
			if n > 0 {
				pieces <- piece{buf[:n], time.Now().Add(l.delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	var passed int64
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if limit := l.limit.Load(); limited && limit >= 0 && passed+int64(len(p.data)) > limit {
			to.Write(p.data[:max(0, limit-passed)])
			if l.cut.Load() {
				to.Close()
				from.Close()
			}
			for range pieces { // it goes nowhere
			}
			return
		}
		n, err := to.Write(p.data)
		if !limited {
			if sent, at := l.sent.Add(int64(n)), l.breakAt.Load(); at > 0 && sent > at {
				l.cut.Store(true)
				l.limit.Store(0)
			}
		}
		if passed += int64(n); err != nil {
			from.Close()
		}
	}
	if c, ok := to.(*net.TCPConn); ok {
		c.CloseWrite()
	}
}
