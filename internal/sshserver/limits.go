package sshserver

import (
	"net/netip"
	"sync"
	"time"
)

// Limits bound what clients can hold. Zero fields stand for the defaults.
type Limits struct {
	Connections        int           // open at once, of all kinds; 4096
	Unauthenticated    int           // open at once that have not logged in; 256
	UnauthenticatedOne int           // the same, of one address (IPv6: one /64); half of Unauthenticated
	Joining            int           // open at once with the login name JoinUser; 16
	AuthTime           time.Duration // from accepting a connection to its login; 20 s
	JoinTime           time.Duration // from a login as JoinUser to the connection's end; 5 min
	AuthTries          int           // keys a client may offer; 10
	UserChannels       int           // open at once on a user's connection; 10
	DeviceChannels     int           // the same on a device's connection; 64
	KeepAlive          time.Duration // between questions whether a silent client is there; 30 s
	KeepAliveMisses    int           // silent intervals before its connection is closed; 3
}

func (l Limits) withDefaults() Limits {
	number := func(n *int, def int) {
		if *n <= 0 {
			*n = def
		}
	}
	duration := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	number(&l.Connections, 4096)
	number(&l.Unauthenticated, 256)
	number(&l.UnauthenticatedOne, max(1, l.Unauthenticated/2))
	number(&l.Joining, 16)
	duration(&l.AuthTime, 20*time.Second)
	duration(&l.JoinTime, 5*time.Minute)
	number(&l.AuthTries, 10)
	number(&l.UserChannels, 10)
	number(&l.DeviceChannels, 64)
	duration(&l.KeepAlive, 30*time.Second)
	number(&l.KeepAliveMisses, 3)
	return l
}

// admission counts connections against the limits. Strangers are counted apart
// and by where they come from: a flood of connections that never log in must
// keep out neither those who did nor strangers from elsewhere.
type admission struct {
	limits Limits

	mu        sync.Mutex
	all       int
	strangers int
	from      map[netip.Prefix]int // strangers
	joining   int
}

func newAdmission(limits Limits) *admission {
	return &admission{limits: limits, from: make(map[netip.Prefix]int)}
}

// enter counts a new connection, a stranger at first. It returns "" or the
// limit that is reached.
func (a *admission) enter(from netip.Prefix) (full string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.all >= a.limits.Connections:
		return "connections"
	case a.strangers >= a.limits.Unauthenticated:
		return "unauthenticated connections"
	case a.from[from] >= a.limits.UnauthenticatedOne:
		return "unauthenticated connections of one address"
	}
	a.all++
	a.strangers++
	a.from[from]++
	return ""
}

// known ends a connection's time as a stranger, by a login or otherwise.
func (a *admission) known(from netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.strangers--
	if a.from[from]--; a.from[from] == 0 {
		delete(a.from, from)
	}
}

func (a *admission) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all--
}

func (a *admission) enterJoin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.joining >= a.limits.Joining {
		return false
	}
	a.joining++
	return true
}

func (a *admission) leaveJoin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.joining--
}
