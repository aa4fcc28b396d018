// Package sideband carries several streams over one connection (gitprotocol-pack(5)): what
// was asked for, and beside it what a person is told.
//
// Entry point: [New] makes a [Mux]; [Mux.Send] writes, and [Mux.Copy] passes a stream on.
//
// It promises that packets are never mixed up, and that who sits between the two ends has
// no reason to take a silence for the end.
package sideband

import (
	"io"
	"sync"
	"time"

	"gitcluster/internal/pktline"
)

// A Band is one of the streams.
type Band byte

// The bands.
const (
	Data     Band = 1 // what was asked for
	Progress Band = 2 // lines for a person
	Fatal    Band = 3 // why there will be nothing more
)

// KeepAlive is how long a server may be silent.
const KeepAlive = 5 * time.Second

// A packet has its length and its band in front.
const head = 5

// A Mux writes the bands of one connection. Its methods are safe for concurrent use.
type Mux struct {
	mu    sync.Mutex
	w     io.Writer
	said  bool // something was, since the last look
	over  bool // nothing more may be
	quit  chan struct{}
	alive sync.WaitGroup
	once  sync.Once // to begin to show that the server is alive
}

// New returns a mux that writes to w. It must be closed.
func New(w io.Writer) *Mux { return &Mux{w: w, quit: make(chan struct{})} }

// Alive has the other end hear something now and then, from now on: empty packets of a
// band.
func (m *Mux) Alive(band Band) {
	m.once.Do(func() {
		m.alive.Go(func() {
			tick := time.NewTicker(KeepAlive)
			defer tick.Stop()
			for {
				select {
				case <-m.quit:
					return
				case <-tick.C:
				}
				m.mu.Lock()
				if !m.said && !m.over {
					m.w.Write(seal(make([]byte, head), band))
				}
				m.said = false
				m.mu.Unlock()
			}
		})
	})
}

// Close ends what Alive began.
func (m *Mux) Close() {
	m.once.Do(func() {}) // never again
	close(m.quit)
	m.alive.Wait()
}

// Send says something on a band, in as many packets as it takes.
func (m *Mux) Send(band Band, p []byte) error {
	packet := make([]byte, min(head+len(p), pktline.Max))
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(p) > 0 {
		n := copy(packet[head:], p)
		if err := m.write(seal(packet[:head+n], band)); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// Copy passes on to a band what r reads, to its end.
func (m *Mux) Copy(band Band, r io.Reader) (sent int64, err error) {
	packet := make([]byte, pktline.Max)
	for {
		n, err := r.Read(packet[head:])
		if n > 0 {
			m.mu.Lock()
			err := m.write(seal(packet[:head+n], band))
			m.mu.Unlock()
			if err != nil {
				return sent, err
			}
			sent += int64(n)
		}
		if err == io.EOF {
			return sent, nil
		}
		if err != nil {
			return sent, err
		}
	}
}

// Flush ends what is said on the bands.
func (m *Mux) Flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	_, err := io.WriteString(m.w, pktline.Flush)
	return err
}

// write writes one packet. The caller holds mu.
func (m *Mux) write(packet []byte) error {
	m.said = true
	_, err := m.w.Write(packet)
	return err
}

// seal writes a packet's length and its band in front of it.
func seal(packet []byte, band Band) []byte {
	pktline.PutLength(packet, len(packet))
	packet[head-1] = byte(band)
	return packet
}

// A Writer writes to one band of a mux.
type Writer struct {
	Mux  *Mux
	Band Band
}

func (w Writer) Write(p []byte) (int, error) {
	if err := w.Mux.Send(w.Band, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// ReadFrom has [io.Copy] read to where a packet is sent from.
func (w Writer) ReadFrom(r io.Reader) (int64, error) { return w.Mux.Copy(w.Band, r) }
