package httpserver

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Git's large requests come by HTTP/1.1, whatever client and server agree on
// otherwise. Under HTTP/2, libcurl 7.88 asks Git again for the body's next
// part after its end if a flow-control window was used up just before, and Git waits for
// ever. (Debian 12 has that version; later ones had other stalls.)
//
// Before a large request, Git sends a very small one. When that comes by HTTP/2, the
// connection ends with its answer, and the client's next one is offered HTTP/1.1
// alone.

// probeSize is the length of the small request, a flush packet.
const probeSize = int64(len(flush))

// downgrades are the addresses whose next connections shall be HTTP/1.1. The zero
// value is ready.
type downgrades struct {
	mu    sync.Mutex
	until map[netip.Addr]time.Time
}

// Bounds of what is remembered: the large request follows at once, and to be
// forgotten does little harm.
const (
	downgradeFor   = 10 * time.Second
	mostDowngrades = 1024
)

// probe marks the client of a small request that has come by HTTP/2.
func (d *downgrades) probe(w http.ResponseWriter, r *http.Request) {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || r.ProtoMajor < 2 || r.ContentLength != probeSize {
		return
	}
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	for addr, until := range d.until {
		if len(d.until) >= mostDowngrades || now.After(until) {
			delete(d.until, addr)
		}
	}
	if d.until == nil {
		d.until = map[netip.Addr]time.Time{}
	}
	d.until[remote.Addr()] = now.Add(downgradeFor)
	w.Header().Set("Connection", "close") // net/http says that in HTTP/2's own way
}

func (d *downgrades) has(remote net.Addr) bool {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Now().Before(d.until[tcp.AddrPort().Addr()])
}

// configs returns the TLS configuration of a server whose certificate get gives.
func (d *downgrades) configs(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	old := &tls.Config{GetCertificate: get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	usual := old.Clone()
	usual.NextProtos = []string{"h2", "http/1.1"}
	usual.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if d.has(hello.Conn.RemoteAddr()) {
			return old, nil
		}
		return nil, nil
	}
	return usual
}
