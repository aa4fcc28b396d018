package login

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// Bounds of failed logins.
const (
	failureWindow = time.Minute
	mostFailures  = 10   // of one source in a window; what comes after is not looked up
	mostSources   = 4096 // remembered; further ones share one count
	mostLines     = 20   // of the log in a window
)

// failures counts failed logins by where they come from. The zero value is ready.
type failures struct {
	mu    sync.Mutex
	from  map[netip.Prefix]*tries
	swept time.Time
}

// tries are the failures of one source since a time.
type tries struct {
	since time.Time
	n     int
}

// count notes a failure and says whether it is one of the first.
func (f *failures) count(source netip.Prefix, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.of(source, now)
	if now.Sub(t.since) >= failureWindow {
		*t = tries{since: now}
	}
	t.n++
	return t.n <= mostFailures
}

// forgive takes one back that was none after all.
func (f *failures) forgive(source netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.from[source]; t != nil && t.n > 0 {
		t.n--
	}
}

// of returns the count of a source; it is called with the mutex held.
func (f *failures) of(source netip.Prefix, now time.Time) *tries {
	if t := f.from[source]; t != nil {
		return t
	}
	if len(f.from) >= mostSources && now.Sub(f.swept) >= time.Second {
		f.swept = now
		for s, t := range f.from {
			if now.Sub(t.since) >= failureWindow {
				delete(f.from, s)
			}
		}
	}
	if len(f.from) >= mostSources {
		source = netip.Prefix{} // memory is bounded, so the rest share
		if t := f.from[source]; t != nil {
			return t
		}
	}
	if f.from == nil {
		f.from = map[netip.Prefix]*tries{}
	}
	t := &tries{since: now}
	f.from[source] = t
	return t
}

// refusals writes refused logins to the log: the first of a window one by one, the
// others as a number.
type refusals struct {
	log   *slog.Logger
	mu    sync.Mutex
	since time.Time
	n     int
}

func (r *refusals) add(remote netip.Addr, reason error, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.since) >= failureWindow {
		if r.n > mostLines {
			r.log.Warn("logins refused", "not_shown", r.n-mostLines, "since", r.since)
		}
		r.since, r.n = now, 0
	}
	if r.n++; r.n <= mostLines {
		r.log.Warn("login refused", "front", "http", "remote", remote.String(), "error", reason)
	}
}
