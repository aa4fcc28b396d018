package main

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A detour makes the way to a server longer: what comes through is passed on after
// a delay, in both directions. Unlike a long line it takes connections at once; that
// round trip is the same for everybody and missing in all numbers.
type detour struct {
	addr     string
	to       string
	delay    atomic.Int64 // of one direction, in nanoseconds
	listener net.Listener
	all      sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
}

// newDetour listens for connections to the server at to. The caller must Close it.
func newDetour(to string) (*detour, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &detour{addr: l.Addr().String(), to: to, listener: l, open: map[net.Conn]bool{}}
	d.all.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			d.all.Go(func() { d.join(near) })
		}
	})
	return d, nil
}

// roundTrip sets how long a question and its answer are on the way.
func (d *detour) roundTrip(t time.Duration) { d.delay.Store(int64(t / 2)) }

// join leads a connection to the server, until either side ends it.
func (d *detour) join(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", d.to)
	if err != nil {
		return
	}
	defer far.Close()
	if !d.keep(near, far) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { d.carry(near, far) })
	both.Go(func() { d.carry(far, near) })
	both.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, near)
	delete(d.open, far)
}

func (d *detour) keep(both ...net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range both {
		d.open[c] = true
	}
	return !d.closed
}

// carry passes on what a connection says, and that it has ended.
func (d *detour) carry(from, to net.Conn) {
	type piece struct {
		data []byte
		due  time.Time
	}
	onTheWay := make(chan piece, 1024)
	go func() {
		defer close(onTheWay)
		for {
			b := make([]byte, 32<<10)
			n, err := from.Read(b)
			onTheWay <- piece{b[:n], time.Now().Add(time.Duration(d.delay.Load()))}
			if err != nil {
				return
			}
		}
	}()
	for p := range onTheWay {
		if wait := time.Until(p.due); wait > 0 {
			<-time.NewTimer(wait).C
		}
		if _, err := to.Write(p.data); err != nil {
			from.Close() // ends the goroutine that reads
		}
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}

// Close ends all connections.
func (d *detour) Close() {
	d.listener.Close()
	d.mu.Lock()
	d.closed = true
	for c := range d.open {
		c.Close()
	}
	d.mu.Unlock()
	d.all.Wait()
}
