package sshserver

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
	"gitcluster/internal/session"
)

func TestNewRefuses(t *testing.T) {
	good := func() Options {
		return Options{
			HostKey: newSigner(t), Version: "1", Handler: handlerFunc(echo),
			Authenticate: func(context.Context, string, ssh.PublicKey, netip.AddrPort) (cluster.Identity, error) {
				return cluster.Identity{}, cluster.ErrDenied
			},
		}
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Options){
		"host key":     func(o *Options) { o.HostKey = nil },
		"authenticate": func(o *Options) { o.Authenticate = nil },
		"handler":      func(o *Options) { o.Handler = nil },
		"version":      func(o *Options) { o.Version = "" },
	} {
		opts := good()
		spoil(&opts)
		if _, err := New(opts); err == nil {
			t.Errorf("a server without %s was made", name)
		}
	}
}

func TestWrongKeyRefused(t *testing.T) {
	f := start(t, echo, nil)
	stranger := newSigner(t)
	_, err := ssh.Dial("tcp", f.addr, f.clientConfig("git", stranger))
	if err == nil {
		t.Fatal("a stranger was let in")
	}
	if strings.Contains(err.Error(), "for the log") {
		t.Errorf("the client learned the reason: %v", err)
	}
	waitFor(t, "the reason in the log", func() (string, bool) {
		log := f.log.String()
		return log, strings.Contains(log, "for the log")
	})
	config := f.clientConfig("git")
	config.Auth = []ssh.AuthMethod{ssh.Password("x")}
	if _, err := ssh.Dial("tcp", f.addr, config); err == nil {
		t.Error("a password was taken")
	}
	config.Auth = nil
	if _, err := ssh.Dial("tcp", f.addr, config); err == nil {
		t.Error("nothing was taken")
	}
}

func TestCertificateRefused(t *testing.T) {
	f := start(t, echo, func(o *Options) {
		o.JoinHandler = func(context.Context, ssh.PublicKey, *session.Session) int { return 0 }
	})
	cert := &ssh.Certificate{Key: f.user.PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, newSigner(t)); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(cert, f.user)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"git", JoinUser} {
		if _, err := ssh.Dial("tcp", f.addr, f.clientConfig(user, signer)); err == nil {
			t.Errorf("a certificate was taken for %q", user)
		}
	}
}

// A key that the client does not have opens nothing.
func TestForgedSignatureRefused(t *testing.T) {
	f := start(t, echo, nil)
	forged := &forger{Signer: f.device}
	if _, err := ssh.Dial("tcp", f.addr, f.clientConfig("git", forged)); err == nil {
		t.Error("a forged signature was taken")
	}
	if !forged.accepted {
		t.Error("the server did not ask for a signature")
	}
}

// forger offers a key and signs with another.
type forger struct {
	ssh.Signer
	accepted bool // the key, by a server that then wants the signature
}

func (f *forger) Sign(random io.Reader, data []byte) (*ssh.Signature, error) {
	f.accepted = true
	_, other, err := ed25519.GenerateKey(random)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(other)
	if err != nil {
		return nil, err
	}
	return signer.Sign(random, data)
}

func TestImpossibleIdentityRefused(t *testing.T) {
	for _, id := range []cluster.Identity{{}, {Operator: true}, {User: "alice", Operator: true}} {
		f := start(t, echo, func(o *Options) {
			o.Authenticate = func(context.Context, string, ssh.PublicKey, netip.AddrPort) (cluster.Identity, error) {
				return id, nil
			}
		})
		if _, err := ssh.Dial("tcp", f.addr, f.clientConfig("git", f.user)); err == nil {
			t.Errorf("%+v was let in", id)
		}
	}
}

func TestJoin(t *testing.T) {
	key := newSigner(t)
	f := start(t, echo, func(o *Options) {
		o.Limits.Joining = 1
		o.JoinHandler = func(_ context.Context, k ssh.PublicKey, s *session.Session) int {
			if s.Identity != (cluster.Identity{}) {
				t.Errorf("a joining machine is %s", s.Identity)
			}
			io.WriteString(s.Stdout, ssh.FingerprintSHA256(k))
			return 3
		}
	})
	client := f.dial(t, JoinUser, key)
	stdout, _, status := run(t, f.session(t, client), JoinCommand, nil)
	if stdout != ssh.FingerprintSHA256(key.PublicKey()) || status != 3 {
		t.Errorf("%q, status %d", stdout, status)
	}
	for _, command := range []string{"git-upload-pack 'x'", "cluster-join now", ""} {
		stdout, stderr, status := run(t, f.session(t, client), command, nil)
		if stdout != "" || status != 1 || !strings.Contains(stderr, `can only run "cluster-join"`) {
			t.Errorf("%q: %q, %q, status %d", command, stdout, stderr, status)
		}
	}
	first := f.session(t, client)
	if _, err := client.NewSession(); err == nil {
		t.Error("a joining connection has two channels")
	}
	first.Close()
	second, err := ssh.Dial("tcp", f.addr, f.clientConfig(JoinUser, newSigner(t)))
	if err == nil {
		if _, err := second.NewSession(); err == nil {
			t.Error("two joining connections at once, the limit is one")
		}
		second.Close()
	}
	// A user is not kept out by it.
	if _, _, status := run(t, f.session(t, f.dial(t, "git", f.user)), "x", nil); status != 7 {
		t.Errorf("a user beside a joining machine: status %d", status)
	}

	closed := start(t, echo, nil)
	if _, err := ssh.Dial("tcp", closed.addr, closed.clientConfig(JoinUser, closed.user)); err == nil {
		t.Error("the login name join was let in where nothing serves it")
	}
}

func TestJoinTimeIsBounded(t *testing.T) {
	f := start(t, echo, func(o *Options) {
		o.Limits.JoinTime = 50 * time.Millisecond
		o.JoinHandler = func(ctx context.Context, _ ssh.PublicKey, _ *session.Session) int { <-ctx.Done(); return 0 }
	})
	client := f.dial(t, JoinUser, newSigner(t))
	done := make(chan error, 1)
	go func() { done <- client.Wait() }()
	recv(t, done, "the connection to be closed")
}

func TestFloodOfStrangersIsBounded(t *testing.T) {
	f := start(t, echo, func(o *Options) {
		o.Limits.Unauthenticated = 20
		o.Limits.UnauthenticatedOne = 5
		o.Limits.AuthTime = time.Hour
	})
	known := f.dial(t, "git", f.user)
	// Once a command has run, the server has seen the login and counts it as one.
	if _, _, status := run(t, f.session(t, known), "x", nil); status != 7 {
		t.Fatalf("status %d", status)
	}
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for range 30 {
		c, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	// The server greets first, and only those it keeps.
	greeted := 0
	for _, c := range held {
		c.SetReadDeadline(time.Now().Add(patience))
		if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
			greeted++
		}
	}
	if greeted != 5 {
		t.Errorf("%d strangers of one address were greeted, want 5", greeted)
	}
	if _, _, status := run(t, f.session(t, known), "x", nil); status != 7 {
		t.Errorf("a user during the flood: status %d", status)
	}
	for _, c := range held {
		c.Close()
	}
	waitFor(t, "a login after the flood", func() (string, bool) {
		client, err := ssh.Dial("tcp", f.addr, f.clientConfig("git", f.user))
		if err != nil {
			return err.Error(), false
		}
		client.Close()
		return "", true
	})
}

func TestAdmission(t *testing.T) {
	a := newAdmission(Limits{Connections: 4, Unauthenticated: 3, UnauthenticatedOne: 2})
	one, two := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	enter := func(from netip.Prefix, want string) {
		t.Helper()
		if got := a.enter(from); got != want {
			t.Errorf("enter: %q, want %q", got, want)
		}
	}
	enter(one, "")
	enter(one, "")
	enter(one, "unauthenticated connections of one address")
	enter(two, "")
	enter(two, "unauthenticated connections")
	a.known(one)
	enter(two, "")
	enter(one, "connections")
	a.known(one)
	a.known(two)
	a.known(two)
	for range 4 {
		a.leave()
	}
	if a.all != 0 || a.strangers != 0 || len(a.from) != 0 {
		t.Errorf("after all left: %+v", a)
	}
}

func TestSilentStrangerIsDropped(t *testing.T) {
	f := start(t, echo, func(o *Options) { o.Limits.AuthTime = 50 * time.Millisecond })
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a silent client was kept")
	}
	// The limit is on the login, not on what comes after it.
	slow := start(t, func(ctx context.Context, s *session.Session) int {
		select {
		case <-time.After(5500 * time.Millisecond):
			return 0
		case <-ctx.Done():
			return 1
		}
	}, func(o *Options) { o.Limits.AuthTime = 5 * time.Second })
	if _, _, status := run(t, slow.session(t, slow.dial(t, "git", slow.user)), "x", nil); status != 0 {
		t.Errorf("a command longer than the login limit: status %d", status)
	}
}

func TestTooManyKeys(t *testing.T) {
	f := start(t, echo, func(o *Options) { o.Limits.AuthTries = 3 })
	keys := []ssh.Signer{newSigner(t), newSigner(t), newSigner(t), f.user}
	if _, err := ssh.Dial("tcp", f.addr, f.clientConfig("git", keys...)); err == nil {
		t.Error("the fourth key was looked at")
	}
	if _, err := ssh.Dial("tcp", f.addr, f.clientConfig("git", keys[1:]...)); err != nil {
		t.Errorf("the third key: %v", err)
	}
}

func TestDeadClientIsDropped(t *testing.T) {
	ended := make(chan struct{})
	f := start(t, func(ctx context.Context, s *session.Session) int {
		<-ctx.Done()
		close(ended)
		return 0
	}, func(o *Options) { o.Limits.KeepAlive = 500 * time.Millisecond })
	// A client whose bytes stop reaching the server although nothing is closed.
	raw, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	path := &cutConn{Conn: raw}
	cc, chans, reqs, err := ssh.NewClientConn(path, f.addr, f.clientConfig("git", f.user))
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(cc, chans, reqs)
	defer client.Close()
	s := f.session(t, client)
	if err := s.Start("x"); err != nil {
		t.Fatal(err)
	}
	// A live client answers and stays, for longer than a silent one would.
	before := path.writes.Load()
	waitFor(t, "the client's answers", func() (string, bool) {
		n := path.writes.Load() - before
		return fmt.Sprint(n), n > 5
	})
	select {
	case <-ended:
		t.Fatal("a client that answers was dropped")
	default:
	}
	path.cut.Store(true)
	recv(t, ended, "the dead client to be dropped")
}
