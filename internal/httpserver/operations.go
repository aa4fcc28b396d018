package httpserver

import (
	"context"
	"net/http"
	"sync"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/login"
	"gitcluster/internal/share"
)

// serveReady says whether this node could serve now. Anybody may ask, so all
// share one question to the journal, and nobody learns more than its outcome.
func (s *Server) serveReady(x *exchange, r *http.Request) {
	noCache(x.Header())
	switch err := s.ready.check(r.Context(), s.opts.Ready); {
	case s.draining.Err() != nil:
		answer(x, http.StatusServiceUnavailable, cluster.ErrStopping.Error())
	case err != nil:
		answer(x, http.StatusServiceUnavailable, cluster.ErrUnavailable.Error())
	default:
		answer(x, http.StatusOK, "ready")
	}
}

// readiness remembers an answer for a moment.
type readiness struct {
	share.Call[struct{}]
	mu  sync.Mutex
	at  time.Time
	err error
}

// Bounds of the question whether the node is ready.
const (
	readyFor      = time.Second
	readyPatience = 3 * time.Second
)

func (c *readiness) check(ctx context.Context, ready func(context.Context) error) error {
	if ready == nil {
		return nil
	}
	c.mu.Lock()
	at, err := c.at, c.err
	c.mu.Unlock()
	if time.Since(at) < readyFor {
		return err
	}
	_, err = c.Do(ctx, func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(context.Background(), readyPatience)
		defer cancel()
		err := ready(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.at, c.err = time.Now(), err
		return struct{}{}, err
	})
	return err
}

// serveMetrics is for the networks that devices are trusted in, and for
// administrators from elsewhere. A proxy's address says nothing of its clients.
func (s *Server) serveMetrics(x *exchange, r *http.Request) {
	noCache(x.Header())
	if s.opts.Metrics == nil {
		answer(x, http.StatusNotFound, "there is no such page here")
		return
	}
	if !s.opts.Rules().FromTrusted(login.Remote(r)) {
		id, err := s.opts.Login.Request(r)
		if err == nil && !s.opts.Rules().Admin(id) {
			err = cluster.ErrDenied
		}
		if err != nil {
			s.refuse(x, r, id, err)
			return
		}
	}
	s.opts.Metrics.ServeHTTP(x, r)
}
