//go:build unix

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"gitcluster/internal/client"
)

// envDNS names the server that the helper of a test asks instead of the machine's.
const envDNS = "TEST_DNS"

func useTestDNS() {
	if at := os.Getenv(envDNS); at != "" {
		net.DefaultResolver.PreferGo = true
		net.DefaultResolver.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "udp", at)
		}
	}
}

// serveDNS answers for the services of _git-cluster._tcp.DOMAIN, and says that every
// host is this machine.
func serveDNS(t *testing.T, domain string, services ...dnsmessage.SRVResource) (addr string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 4<<10)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.Authoritative, m.Additionals = true, true, nil
			head := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}
			switch {
			case q.Type == dnsmessage.TypeSRV && q.Name.String() == "_git-cluster._tcp."+domain+".":
				for _, s := range services {
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &s})
				}
			case q.Type == dnsmessage.TypeA:
				m.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
			}
			if answer, err := m.Pack(); err == nil {
				conn.WriteTo(answer, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

// A domain is enough of an address where the DNS says which servers it has; and the
// trace says how long each step took, and how often an answer was waited for.
func TestServersOfADomain(t *testing.T) {
	w := newWorld(t)
	bare := w.repo("demo/hello")
	h := w.addHost("one")
	_, port, err := net.SplitHostPort(h.Addr)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(w.dir, "known")
	if err := os.WriteFile(known, []byte("[one.cluster.example]:"+port+" "+h.HostKey()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.sshConfig("IdentityFile " + w.key + "\nUserKnownHostsFile " + known + "\n")
	w.setenv(envDNS, serveDNS(t, "cluster.example", dnsmessage.SRVResource{Priority: 1, Weight: 1, Port: uint16(number), Target: dnsmessage.MustNewName("one.cluster.example.")}))
	trace := filepath.Join(w.dir, "trace")
	w.setenv(client.EnvTrace, trace)
	var text []byte
	for range 5 {
		for _, left := range []string{trace, filepath.Join(w.dir, "home", ".cache")} {
			if err := os.RemoveAll(left); err != nil {
				t.Fatal(err)
			}
		}
		before := h.Connections()
		r := w.tryGit("", "ls-remote", "cluster://cluster.example"+bare, "main")
		if text, err = os.ReadFile(trace); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "has 0 records") {
			continue // on a busy machine the answer may come too late
		}
		if r.status != 0 || h.Connections() != before+1 {
			t.Errorf("status %d, stderr %q", r.status, r.stderr)
		}
		break
	}
	const took = `\d+\.\d ms`
	at := regexp.QuoteMeta(fmt.Sprintf("one.cluster.example:%s", port))
	for _, line := range []string{
		`the DNS has 1 records for _git-cluster\._tcp\.cluster\.example after ` + took + `, error <nil>`,
		at + `: connecting \(.*\)`,
		at + `: connected in ` + took,
		at + `: answered after ` + took,
		at + `: has shown its host key after ` + took,
		at + `: logged in after ` + took,
		at + `: cluster-sync answered after ` + took + `: version 43, waited 12 ms, error ""`,
		at + `: git-upload-pack has begun to answer`,
		at + `: end after ([4-9]|1\d) round trips, error <nil>`,
	} {
		if !regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d\.\d{6} git-remote-cluster: \+` + took + ` ` + line + `$`).Match(text) {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
}
