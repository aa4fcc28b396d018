package sshclient

import (
	"net"
	"sync/atomic"
	"time"
)

// A meter is a connection that notes when bytes come and how often a wait for
// the server followed a word to it.
type meter struct {
	net.Conn
	first func()       // called when the first bytes come; may be nil
	heard atomic.Int64 // bytes that have come
	asked atomic.Int64 // when the last word went out that nothing has followed, Unix nanoseconds; 0: none
	trips atomic.Int64
	unit  atomic.Int64 // how long the first of them took, nanoseconds
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	if n == 0 {
		return n, err
	}
	if asked := m.asked.Swap(0); asked > 0 {
		took := time.Now().UnixNano() - asked
		m.unit.CompareAndSwap(0, took)
		// What comes sooner is the rest of an answer to an earlier word.
		if took >= m.unit.Load()/2 {
			m.trips.Add(1)
		}
	}
	if m.heard.Add(int64(n)) == int64(n) && m.first != nil {
		m.first()
	}
	return n, err
}

func (m *meter) Write(p []byte) (int, error) {
	m.asked.Store(time.Now().UnixNano())
	return m.Conn.Write(p)
}
