package service

import (
	"io"
	"sync/atomic"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/metrics"
)

// A tally is one request on its way: what the log and the metrics say of it when
// it ends.
type tally struct {
	service *Service
	request *Request
	what    string
	start   time.Time
	in, out atomic.Int64
	waited  time.Duration // for the replica to be current
	version cluster.Version
	refs    int // accepted by a push
}

// begin starts the tally of a request, and counts its bytes from here on.
func (s *Service) begin(q *Request, what string) *tally {
	t := &tally{service: s, request: q, what: what, start: time.Now()}
	if q.Stdin != nil {
		q.Stdin = countingReader{q.Stdin, &t.in}
	}
	if q.Stdout != nil {
		q.Stdout = countingWriter{q.Stdout, &t.out}
	}
	return t
}

// end writes the one line of the request.
func (t *tally) end(err error) {
	q, took := t.request, time.Since(t.start)
	log := t.service.Log.With("service", t.what, "front", q.Front, "repo", q.Repo, "identity", q.Identity.String())
	if q.Remote.IsValid() {
		log = log.With("remote", q.Remote.String())
	}
	if t.what == "receive-pack" {
		log = log.With("refs", t.refs)
	} else {
		log = log.With("version", t.version)
	}
	outcome := "ok"
	if err != nil {
		// A client that has what it wanted may go before Git has noticed.
		if outcome = metrics.Kind(err); outcome != metrics.Canceled {
			log = log.With("error", err)
		}
	}
	log.Info("request", "outcome", outcome, "took", took.Round(time.Microsecond), "waited", t.waited.Round(time.Microsecond),
		"bytes_in", t.in.Load(), "bytes_out", t.out.Load())
	t.service.Metrics.Request(metrics.Request{Front: q.Front, Service: t.what, Err: err, Took: took, Waited: t.waited, In: t.in.Load(), Out: t.out.Load()})
}

type countingReader struct {
	r io.Reader
	n *atomic.Int64
}

func (c countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

type countingWriter struct {
	w io.Writer
	n *atomic.Int64
}

func (c countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n.Add(int64(n))
	return n, err
}
