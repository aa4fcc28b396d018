package nodecache

import (
	"maps"
	"slices"
	"time"
)

const (
	measureLife = 12 * time.Hour
	// renewAfter keeps every run from writing what it already knew.
	renewAfter   = 10 * time.Minute
	enough       = 3         // samples
	lookupLife   = time.Hour // no answer of the DNS is kept longer
	maxServers   = 512
	maxAnswers   = 64
	stateFile    = "servers.json"
	firstAvoid   = time.Minute
	longestAvoid = 30 * time.Minute
	// sameFailure is how close two failures are one: many processes may meet it.
	sameFailure = 10 * time.Second
)

// A Measure is what is remembered of one server.
type Measure struct {
	Answers  time.Duration `json:"answers_ns,omitempty"` // from a connection's start to the server's first word; 0: not known
	Samples  int           `json:"samples,omitempty"`    // how often that was seen, up to enough
	At       time.Time     `json:"at"`                   // when, the last time
	Failures int           `json:"failures,omitempty"`   // in a row
	Failed   time.Time     `json:"failed,omitzero"`      // the last of them
	Foreign  time.Time     `json:"foreign,omitzero"`     // when it was found to be no node of a cluster
}

// Stale reports whether it is time to measure again: what was seen once may have
// been a busy moment, or another network.
func (m Measure) Stale(now time.Time) bool {
	age := now.Sub(m.At)
	return m.Samples < enough || age < 0 || age > renewAfter
}

// AvoidUntil is until when a server that has failed should be tried last: longer
// with every failure, up to half an hour. The zero time: it has not failed.
func (m Measure) AvoidUntil() time.Time {
	if m.Failures <= 0 {
		return time.Time{}
	}
	return m.Failed.Add(min(firstAvoid<<min(m.Failures-1, 10), longestAvoid))
}

// A lookup is an answer of the DNS.
type lookup struct {
	Answers []string  `json:"answers"`
	Until   time.Time `json:"until"`
}

// state is the file of all servers, by "host:port".
type state struct {
	Servers map[string]Measure `json:"servers"`
	Lookups map[string]lookup  `json:"lookups,omitempty"`
}

// A change is made to the state as it is when the cache is saved.
type change func(s *state) (worthWriting bool)

// Measure returns what is remembered of a server.
func (c *Cache) Measure(addr string) Measure {
	if c == nil {
		return Measure{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.state().Servers[addr]
	if age := c.now().Sub(m.At); age < 0 || age > measureLife {
		m.Answers = 0
	}
	if age := c.now().Sub(m.Failed); age < 0 || age > measureLife {
		m.Failures = 0
	}
	if age := c.now().Sub(m.Foreign); age < 0 || age > measureLife {
		m.Foreign = time.Time{}
	}
	return m
}

// Heard notes how long a server took to its first word.
func (c *Cache) Heard(addr string, took time.Duration) {
	c.note(func(s *state) bool {
		old := s.Servers[addr]
		now := c.now().UTC()
		m := old
		m.Answers, m.Samples, m.At = max(took, 1), 1, now
		if fresh := old.Answers > 0 && now.Sub(old.At) < renewAfter && !old.At.After(now); fresh {
			// Whatever else is slow makes a time longer and nothing makes it shorter, so
			// a shorter one is nearer to the truth.
			m.Answers = min(m.Answers, (7*old.Answers+m.Answers)/8)
			m.Samples = min(old.Samples+1, enough)
		}
		s.Servers[addr] = m
		return m.Samples < enough || old.Samples < enough || m.Answers > 2*old.Answers || 2*m.Answers < old.Answers
	})
}

// Failed notes that a server could not be used.
func (c *Cache) Failed(addr string) {
	c.note(func(s *state) bool {
		m := s.Servers[addr]
		now := c.now().UTC()
		if age := now.Sub(m.Failed); m.Failures > 0 && age >= 0 && age < sameFailure {
			return false
		}
		m.Failures, m.Failed = min(m.Failures+1, 100), now
		s.Servers[addr] = m
		return true
	})
}

// Served notes that a server could be used after all.
func (c *Cache) Served(addr string) {
	c.note(func(s *state) bool {
		m := s.Servers[addr]
		failed := m.Failures > 0
		if failed {
			m.Failures, m.Failed = 0, time.Time{}
			s.Servers[addr] = m
		}
		return failed
	})
}

// NoNode notes that a server is no node of a cluster, of which it was asked. Later
// runs need not ask for some hours: it costs such a server a process.
func (c *Cache) NoNode(addr string) {
	c.note(func(s *state) bool {
		m := s.Servers[addr]
		m.Foreign = c.now().UTC()
		s.Servers[addr] = m
		return true
	})
}

// Lookup returns the DNS's last answer for a name, if it is fresh enough.
func (c *Cache) Lookup(name string) (answers []string, ok bool) {
	if c == nil {
		return nil, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.state().Lookups[name]
	if left := l.Until.Sub(c.now()); !ok || left <= 0 || left > lookupLife {
		return nil, false
	}
	return slices.Clone(l.Answers), true
}

// LookedUp notes an answer of the DNS, which may be that there is nothing, and how
// long to go by it.
func (c *Cache) LookedUp(name string, answers []string, life time.Duration) {
	answers = answers[:min(len(answers), maxAnswers)]
	c.note(func(s *state) bool {
		s.Lookups[name] = lookup{answers, c.now().UTC().Add(life)}
		return true
	})
}

func (c *Cache) note(f change) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes = append(c.changes, f)
}

// Save writes what was noted, if it is worth a file. Of two processes that save
// at the same moment one may win; what the other has seen will be seen again.
func (c *Cache) Save() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.changes) == 0 {
		return
	}
	s := c.load()
	worth := false
	for _, f := range c.changes {
		worth = f(s) || worth
	}
	c.changes = nil
	if worth {
		s.trim(c.now())
		c.write(stateFile, s)
	}
}

// state is what was on disk when this process first asked. The caller holds mu.
func (c *Cache) state() *state {
	if c.seen == nil {
		c.seen = c.load()
	}
	return c.seen
}

func (c *Cache) load() *state {
	s := new(state)
	if !c.read(stateFile, s) {
		s = new(state)
	}
	if s.Servers == nil {
		s.Servers = map[string]Measure{}
	}
	if s.Lookups == nil {
		s.Lookups = map[string]lookup{}
	}
	return s
}

// trim drops what is out of date, and then what is oldest.
func (s *state) trim(now time.Time) {
	maps.DeleteFunc(s.Lookups, func(_ string, l lookup) bool { return now.After(l.Until) })
	maps.DeleteFunc(s.Servers, func(_ string, m Measure) bool { return now.Sub(m.last()) > measureLife })
	for len(s.Lookups) > maxAnswers {
		delete(s.Lookups, oldest(s.Lookups, func(l lookup) time.Time { return l.Until }))
	}
	for len(s.Servers) > maxServers {
		delete(s.Servers, oldest(s.Servers, Measure.last))
	}
}

func (m Measure) last() time.Time {
	last := m.At
	for _, t := range []time.Time{m.Failed, m.Foreign} {
		if t.After(last) {
			last = t
		}
	}
	return last
}

func oldest[T any](all map[string]T, at func(T) time.Time) (name string) {
	var first time.Time
	for k, v := range all {
		if t := at(v); name == "" || t.Before(first) {
			name, first = k, t
		}
	}
	return name
}
