// Package sshtest is an SSH server for tests: it accepts one key, runs a
// function per command, and counts what still runs.
//
// Entry point: [Start].
//
// It promises to listen on a free port of the loopback interface only, and to
// have ended every command when the test is over.
package sshtest

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A Session is one command on the server. Its context ends when the client
// closes the command or the connection.
type Session struct {
	User    string
	Command string
	Env     map[string]string
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Channel ssh.Channel
	Conn    net.Conn // to cut the connection
}

// NoStatus as a handler's result closes the channel without an exit status.
const NoStatus = -1

// A Handler runs a command and returns its exit status, or [NoStatus].
type Handler func(ctx context.Context, s *Session) (status int)

// A Server is a running server.
type Server struct {
	Addr   string // host:port
	Host   ssh.Signer
	Accept ssh.Signer // the client key it accepts

	opts     Options
	listener net.Listener
	ctx      context.Context
	wait     sync.WaitGroup

	mu       sync.Mutex
	changed  *sync.Cond
	running  map[*Session]bool
	commands []string
	conns    int
}

// Options changes how the server behaves.
type Options struct {
	Handler     Handler
	Refuse      func(command string) bool // commands it does not run
	MaxSessions int                       // per connection at one time; 0 for any number
	Version     string                    // what it introduces itself by; "" for "SSH-2.0-sshtest"
	Accept      ssh.Signer                // the client key; a new one if nil
	Host        ssh.Signer                // the host key; a new one if nil
	// Authorize decides about a key instead of Accept, certificates included.
	Authorize func(user string, key ssh.PublicKey) bool
	Forward   bool   // it connects clients to other servers
	NoKeys    bool   // it takes no keys
	Password  string // it takes this instead of a key, too, if it is not ""
}

// Start starts a server that ends with the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{Addr: listener.Addr().String(), Host: o.Host, Accept: o.Accept, opts: o, listener: listener, ctx: ctx, running: map[*Session]bool{}}
	if s.Host == nil {
		s.Host = NewKey(t)
	}
	if s.Accept == nil {
		s.Accept = NewKey(t)
	}
	s.changed = sync.NewCond(&s.mu)
	s.wait.Go(s.listen)
	t.Cleanup(func() {
		cancel()
		listener.Close()
		s.wait.Wait()
	})
	return s
}

// HostKey is the host key as an authorized_keys line.
func (s *Server) HostKey() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.Host.PublicKey())))
}

// Commands lists what was run, in order.
func (s *Server) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.commands...)
}

// Connections counts the connections that were authenticated.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// WaitRunning waits until a command that contains text runs, or with text ""
// until none runs.
func (s *Server) WaitRunning(t testing.TB, text string) {
	t.Helper()
	limit := time.AfterFunc(time.Minute, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer limit.Stop()
	deadline := time.Now().Add(time.Minute)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		var names []string
		found := false
		for r := range s.running {
			names = append(names, r.Command)
			found = found || strings.Contains(r.Command, text)
		}
		if text != "" && found || text == "" && len(names) == 0 {
			return
		}
		if !time.Now().Before(deadline) {
			t.Fatalf("waited for the server to run %q; it runs %q, has run %q", text, names, s.commands)
		}
		s.changed.Wait()
	}
}

func (s *Server) listen() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.wait.Go(func() { s.serve(conn) })
	}
}

func (s *Server) serve(conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { conn.Close() })
	conf := &ssh.ServerConfig{
		ServerVersion: cmp.Or(s.opts.Version, "SSH-2.0-sshtest"),
		PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			ok := string(key.Marshal()) == string(s.Accept.PublicKey().Marshal())
			if s.opts.Authorize != nil {
				ok = s.opts.Authorize(c.User(), key)
			}
			if !ok {
				return nil, fmt.Errorf("another key")
			}
			return nil, nil
		},
	}
	if s.opts.NoKeys {
		conf.PublicKeyCallback = nil
	}
	if s.opts.Password != "" {
		conf.PasswordCallback = func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if string(password) != s.opts.Password {
				return nil, fmt.Errorf("another password")
			}
			return nil, nil
		}
	}
	conf.AddHostKey(s.Host)
	sc, channels, requests, err := ssh.NewServerConn(conn, conf)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.conns++
	s.mu.Unlock()
	go ssh.DiscardRequests(requests)
	open := make(chan struct{}, 1000)
	for nc := range channels {
		if nc.ChannelType() == "direct-tcpip" && s.opts.Forward {
			s.wait.Go(func() { s.forward(ctx, nc) })
			continue
		}
		if nc.ChannelType() != "session" {
			nc.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		if s.opts.MaxSessions > 0 && len(open) >= s.opts.MaxSessions {
			nc.Reject(ssh.ResourceShortage, "no more sessions")
			continue
		}
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		open <- struct{}{}
		s.wait.Go(func() {
			s.session(ctx, &Session{User: sc.User(), Channel: ch, Conn: conn, Stdin: ch, Stdout: ch, Stderr: ch.Stderr(), Env: map[string]string{}}, reqs)
			<-open
		})
	}
}

// forward connects a client to another server.
func (s *Server) forward(ctx context.Context, nc ssh.NewChannel) {
	var to struct {
		Host string
		Port uint32
		Rest []byte `ssh:"rest"`
	}
	if ssh.Unmarshal(nc.ExtraData(), &to) != nil {
		nc.Reject(ssh.ConnectionFailed, "bad request")
		return
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(to.Host, fmt.Sprint(to.Port)))
	if err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer conn.Close()
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	go ssh.DiscardRequests(requests)
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	go func() {
		io.Copy(conn, ch)
		conn.Close()
	}()
	io.Copy(ch, conn)
}

func (s *Server) session(ctx context.Context, session *Session, requests <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer session.Channel.Close()
	for r := range requests {
		switch r.Type {
		case "env":
			if f := fields(r.Payload); len(f) == 2 {
				session.Env[f[0]] = f[1]
			}
			continue
		case "exec":
		default:
			r.Reply(false, nil)
			continue
		}
		f := fields(r.Payload)
		if len(f) != 1 || s.opts.Refuse != nil && s.opts.Refuse(f[0]) {
			r.Reply(false, nil)
			continue
		}
		session.Command = f[0]
		r.Reply(true, nil)
		go func() {
			ssh.DiscardRequests(requests) // ends when the client closes
			cancel()
		}()
		s.note(session, true)
		status := s.opts.Handler(ctx, session)
		if status >= 0 {
			session.Channel.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, uint32(status)))
		}
		s.note(session, false)
		return
	}
}

func (s *Server) note(session *Session, runs bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if runs {
		s.running[session] = true
		s.commands = append(s.commands, session.Command)
	} else {
		delete(s.running, session)
	}
	s.changed.Broadcast()
}

func fields(b []byte) (f []string) {
	for len(b) >= 4 {
		n := binary.BigEndian.Uint32(b)
		if b = b[4:]; uint64(n) > uint64(len(b)) {
			return nil
		}
		f, b = append(f, string(b[:n])), b[n:]
	}
	return f
}

// NewKey makes a key.
func NewKey(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// NewKeyFile makes a key and writes it to a file in dir, encrypted if a
// passphrase is given.
func NewKeyFile(t testing.TB, dir, name, passphrase string) (path string, signer ssh.Signer) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "test")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "test", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if signer, err = ssh.NewSignerFromKey(private); err != nil {
		t.Fatal(err)
	}
	return path, signer
}
