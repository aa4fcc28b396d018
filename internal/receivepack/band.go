package receivepack

import (
	"bytes"
	"io"

	"gitcluster/internal/cluster"
	"gitcluster/internal/pktline"
	"gitcluster/internal/sideband"
)

// A Band is what a server says during a push: lines for a person, and at the end the
// report. Its methods are safe for concurrent use.
type Band struct{ mux *sideband.Mux }

// NewBand returns a band that is written to w. It must be closed.
func NewBand(w io.Writer) *Band { return &Band{sideband.New(w)} }

// Write tells the person who pushes. A zero byte is not passed on: by that index-pack
// says that it has the whole pack (git-index-pack(1), --report-end-of-input). Only from
// there on the client listens all the time.
func (b *Band) Write(p []byte) (int, error) {
	size := len(p)
	if bytes.IndexByte(p, 0) >= 0 {
		p = bytes.ReplaceAll(p, []byte{0}, nil)
		b.Received()
	}
	if err := b.mux.Send(sideband.Progress, p); err != nil {
		return 0, err
	}
	return size, nil
}

// Received says that the client has sent everything. From then on it hears something
// now and then.
func (b *Band) Received() { b.mux.Alive(sideband.Progress) }

// Close ends what Received began.
func (b *Band) Close() { b.mux.Close() }

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
	if err := b.mux.Send(sideband.Data, text.Bytes()); err != nil {
		return err
	}
	return b.mux.Flush()
}
