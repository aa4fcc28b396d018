package receivepack

import (
	"bytes"
	"io"
	"sync"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/pktline"
)

// The bands of a connection on which more is said than the report (gitprotocol-pack(5)).
const (
	bandReport   = 1
	bandProgress = 2
)

// maxBand is how much one packet of a band holds.
const maxBand = pktline.Max - 5

// A Band is what a server says during a push: lines for a person, and at the end the
// report. Its methods are safe for concurrent use.
type Band struct {
	mu    sync.Mutex
	w     io.Writer
	said  bool // something was, since the last look
	quit  chan struct{}
	alive sync.WaitGroup
	once  sync.Once // to begin to show that the server is alive
}

// keepAlive is how long the server may be silent once it has the pack: who sits between
// it and the client takes a long silence for the end.
const keepAlive = 5 * time.Second

// NewBand returns a band that is written to w. It must be closed.
func NewBand(w io.Writer) *Band { return &Band{w: w, quit: make(chan struct{})} }

// Write tells the person who pushes. A zero byte is not passed on: by that index-pack
// says that it has the whole pack (git-index-pack(1), --report-end-of-input). Only from
// there on the client listens all the time.
func (b *Band) Write(p []byte) (int, error) {
	size := len(p)
	if bytes.IndexByte(p, 0) >= 0 {
		p = bytes.ReplaceAll(p, []byte{0}, nil)
		b.Received()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(p) > 0 {
		if err := b.send(bandProgress, p); err != nil {
			return 0, err
		}
	}
	return size, nil
}

// Received says that the client has sent everything. From then on it hears something
// now and then.
func (b *Band) Received() {
	b.once.Do(func() {
		b.alive.Go(func() {
			tick := time.NewTicker(keepAlive)
			defer tick.Stop()
			for {
				select {
				case <-b.quit:
					return
				case <-tick.C:
				}
				b.mu.Lock()
				if !b.said {
					b.packet(bandProgress, nil)
				}
				b.said = false
				b.mu.Unlock()
			}
		})
	})
}

// Close ends what Received began.
func (b *Band) Close() {
	b.once.Do(func() {}) // never again
	close(b.quit)
	b.alive.Wait()
}

// Report tells the client what became of its pack, "" if all is well with it, and of each
// update.
func (b *Band) Report(unpack string, results []cluster.RefResult) error {
	var text bytes.Buffer
	if unpack == "" {
		unpack = "ok"
	}
	pktline.Write(&text, "unpack "+pktline.OneLine(unpack)+"\n")
	for _, r := range results {
		if r.Refused == "" {
			pktline.Write(&text, "ok "+string(r.Ref)+"\n")
		} else {
			pktline.Write(&text, "ng "+string(r.Ref)+" "+pktline.OneLine(r.Refused)+"\n")
		}
	}
	text.WriteString(pktline.Flush)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.send(bandReport, text.Bytes()); err != nil {
		return err
	}
	_, err := io.WriteString(b.w, pktline.Flush)
	return err
}

// send says something on a band, in as many packets as it takes. The caller holds mu.
func (b *Band) send(band byte, p []byte) error {
	b.said = true
	for len(p) > 0 {
		n := min(len(p), maxBand)
		if err := b.packet(band, p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func (b *Band) packet(band byte, p []byte) error {
	return pktline.Write(b.w, string(append([]byte{band}, p...)))
}
