package sshclient

import (
	"net"
	"slices"
	"sync"
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

	mu    sync.Mutex
	waits []time.Duration // the first of them, maxWaits at most
	unit  time.Duration   // what one takes; known when there are maxWaits
	more  int             // round trips after those
}

// maxWaits are enough to know what a round trip takes.
const maxWaits = 64

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	if n == 0 {
		return n, err
	}
	if asked := m.asked.Swap(0); asked > 0 {
		m.wait(time.Duration(time.Now().UnixNano() - asked))
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

func (m *meter) wait(took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.waits) < maxWaits {
		m.waits = append(m.waits, took)
		return
	}
	if m.unit == 0 {
		m.unit = median(m.waits)
	}
	if took >= m.unit/2 {
		m.more++
	}
}

// trips counts the waits that were round trips: not those in which only the rest of
// an answer to an earlier word came. What a round trip takes is told by most of them,
// whichever met with a busy server.
func (m *meter) trips() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, unit := m.more, median(m.waits)
	for _, took := range m.waits {
		if took >= unit/2 {
			n++
		}
	}
	return n
}

func median(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(all))[len(all)/2]
}
