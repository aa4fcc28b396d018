package sshclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"gitcluster/internal/cluster"
	"gitcluster/internal/sshclient/sshtest"
)

// echo writes what the session was asked to standard output, copies standard
// input, and ends with status 3.
func echo(_ context.Context, s *sshtest.Session) int {
	fmt.Fprintf(s.Stdout, "%s %s %v\n", s.User, s.Command, s.Env)
	fmt.Fprint(s.Stderr, "noise")
	io.Copy(s.Stdout, s.Stdin)
	return 3
}

func home(t *testing.T) string {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("SSH_AUTH_SOCK", "")
	if err := os.Mkdir(filepath.Join(dir, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func options(s *sshtest.Server) Options {
	return Options{Addr: s.Addr, User: "git", Signers: []ssh.Signer{s.Accept}, HostKey: s.Host.PublicKey()}
}

func dial(t *testing.T, o Options) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRun(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{Handler: echo})
	c := dial(t, options(s))
	if got := c.ServerVersion(); got != "SSH-2.0-sshtest" {
		t.Errorf("server version %q", got)
	}
	var out, stderr bytes.Buffer
	status, err := c.Run(t.Context(), "do 'it'", map[string]string{"A": "b c"}, strings.NewReader("input"), &out, &stderr)
	if err != nil || status != 3 {
		t.Errorf("status %d, %v", status, err)
	}
	if out.String() != "git do 'it' map[A:b c]\ninput" || stderr.String() != "noise" {
		t.Errorf("stdout %q, stderr %q", out.String(), stderr.String())
	}
	if status, err = c.Run(t.Context(), "again", nil, nil, nil, nil); err != nil || status != 3 {
		t.Errorf("second command: status %d, %v", status, err)
	}
}

func TestBulk(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{Handler: func(_ context.Context, s *sshtest.Session) int {
		go io.Copy(s.Stderr, bytes.NewReader(make([]byte, 8<<20)))
		io.Copy(s.Stdout, s.Stdin)
		return 0
	}})
	c := dial(t, options(s))
	var out bytes.Buffer
	input := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	if status, err := c.Run(t.Context(), "cat", nil, bytes.NewReader(input), &out, nil); status != 0 || err != nil {
		t.Fatalf("status %d, %v", status, err)
	}
	if !bytes.Equal(out.Bytes(), input) {
		t.Errorf("%d bytes came back of %d", out.Len(), len(input))
	}
}

func TestEndings(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{
		Refuse: func(command string) bool { return command == "refused" },
		Handler: func(ctx context.Context, s *sshtest.Session) int {
			fmt.Fprint(s.Stdout, "out")
			switch s.Command {
			case "nostatus":
				return sshtest.NoStatus
			case "signal":
				s.Channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
					Name       string
					Core       bool
					Text, Lang string
				}{"KILL", false, "", ""}))
				return sshtest.NoStatus
			case "cut":
				s.Conn.Close()
			}
			return 0
		}})
	for command, want := range map[string]string{"refused": ErrRefused.Error(), "nostatus": ErrNoStatus.Error(), "signal": "SIGKILL", "cut": ErrNoStatus.Error()} {
		c := dial(t, options(s))
		status, err := c.Run(t.Context(), command, nil, nil, nil, nil)
		if err == nil || status != -1 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: status %d, %v; want %s", command, status, err, want)
		}
	}
}

func TestCancelEndsTheCommand(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{Handler: func(ctx context.Context, s *sshtest.Session) int {
		if s.Command == "wait" {
			<-ctx.Done()
		}
		return 0
	}})
	c := dial(t, options(s))
	ctx, cancel := context.WithCancelCause(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := c.Run(ctx, "wait", nil, nil, nil, nil)
		result <- err
	}()
	s.WaitRunning(t, "wait")
	why := errors.New("enough")
	cancel(why)
	s.WaitRunning(t, "")
	if err := <-result; err != why {
		t.Errorf("Run: %v, want the context's cause", err)
	}
	if status, err := c.Run(t.Context(), "next", nil, nil, nil, nil); status != 0 || err != nil {
		t.Errorf("the next command on the connection: status %d, %v", status, err)
	}
}

func TestOpenSavesARoundTripOnly(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{Handler: echo, MaxSessions: 1})
	c := dial(t, options(s))
	first, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("second session: %v, want ErrRefused", err)
	}
	if err := first.Start("x", nil, nil); err != nil {
		t.Fatal(err)
	}
	first.CloseWrite()
	out, _ := io.ReadAll(first)
	if status, err := first.Wait(); status != 3 || err != nil || !strings.HasPrefix(string(out), "git x") {
		t.Errorf("status %d, %v, %q", status, err, out)
	}
}

func TestDialFailures(t *testing.T) {
	home(t)
	s := sshtest.Start(t, sshtest.Options{Handler: echo})
	held, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for name, c := range map[string]struct {
		change func(*Options)
		want   error
		hint   string
	}{
		"refused":     {func(o *Options) { o.Addr = gone.Addr().String() }, syscall.ECONNREFUSED, ""},
		"silent":      {func(o *Options) { o.Addr, o.HandshakeTimeout = held.Addr().String(), 50*time.Millisecond }, ErrTimeout, ""},
		"other host":  {func(o *Options) { o.HostKey = sshtest.NewKey(t).PublicKey() }, ErrHostKeyChanged, "operator"},
		"unknown":     {func(o *Options) { o.HostKey = nil }, ErrHostKeyUnknown, "ssh-keyscan -t ed25519"},
		"other key":   {func(o *Options) { o.Signers = []ssh.Signer{sshtest.NewKey(t)} }, ErrAuth, "public key"},
		"no key":      {func(o *Options) { o.Signers = nil }, ErrAuth, "public key"},
		"no identity": {func(o *Options) { o.Signers, o.IdentityFile = nil, "/nonexistent/key" }, ErrIdentity, "private key"},
	} {
		o := options(s)
		c.change(&o)
		conn, err := Dial(t.Context(), o)
		if conn != nil || !errors.Is(err, c.want) || !strings.Contains(cluster.Hint(err), c.hint) {
			t.Errorf("%s: %v (hint %q), want %v with a hint of %q", name, err, cluster.Hint(err), c.want, c.hint)
		}
	}
}

func TestCancelDial(t *testing.T) {
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if conn, err := held.Accept(); err == nil {
			defer conn.Close()
			conn.Read(make([]byte, 1)) // the client's version line
			cancel()
			io.Copy(io.Discard, conn)
		}
	}()
	s := sshtest.NewKey(t)
	_, err = Dial(ctx, Options{Addr: held.Addr().String(), Signers: []ssh.Signer{s}, HostKey: s.PublicKey()})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Dial: %v, want context.Canceled", err)
	}
}

func TestKnownHosts(t *testing.T) {
	dir := home(t)
	s := sshtest.Start(t, sshtest.Options{Handler: echo})
	file := filepath.Join(dir, ".ssh", "known_hosts")
	write := func(path string, key ssh.PublicKey) {
		if err := os.WriteFile(path, []byte(knownhosts.Line([]string{s.Addr}, key)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := options(s)
	o.HostKey = nil
	write(file, s.Host.PublicKey())
	dial(t, o)

	write(file, sshtest.NewKey(t).PublicKey())
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrHostKeyChanged) || !strings.Contains(cluster.Hint(err), "ssh-keygen -f "+file+" -R") {
		t.Errorf("changed key: %v, hint %q", err, cluster.Hint(err))
	}
	other := filepath.Join(dir, "other")
	write(other, s.Host.PublicKey())
	o.KnownHosts = []string{other}
	dial(t, o)
}

func TestIdentities(t *testing.T) {
	dir := home(t)
	path, key := sshtest.NewKeyFile(t, filepath.Join(dir, ".ssh"), "id_ed25519", "")
	s := sshtest.Start(t, sshtest.Options{Handler: echo, Accept: key})
	o := options(s)
	o.Signers = nil
	dial(t, o) // ~/.ssh/id_ed25519

	// A configured identity is the only one that is offered.
	o.IdentityFile, _ = sshtest.NewKeyFile(t, dir, "other", "")
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrAuth) || !strings.Contains(err.Error(), "the one SSH key") {
		t.Errorf("another identity: %v", err)
	}
	o.IdentityFile = path
	dial(t, o)
}

func TestEncryptedIdentity(t *testing.T) {
	dir := home(t)
	path, key := sshtest.NewKeyFile(t, dir, "locked", "secret words")
	s := sshtest.Start(t, sshtest.Options{Handler: echo, Accept: key})
	o := options(s)
	o.Signers, o.IdentityFile = nil, path
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrAuth) || !strings.Contains(err.Error(), "is encrypted and no agent holds it") {
		t.Errorf("encrypted, no agent: %v", err)
	}

	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	private, err := ssh.ParseRawPrivateKeyWithPassphrase(text, []byte("secret words"))
	if err != nil {
		t.Fatal(err)
	}
	ring := agent.NewKeyring()
	for _, k := range []any{newPrivate(t), private} {
		if err := ring.Add(agent.AddedKey{PrivateKey: k}); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SSH_AUTH_SOCK", serveAgent(t, ring))
	c := dial(t, o)
	if _, err := c.Run(t.Context(), "x", nil, nil, nil, nil); err != nil {
		t.Error(err)
	}
	o.IdentityFile = ""
	dial(t, o) // all the agent's keys
}

func newPrivate(t *testing.T) any {
	path, _ := sshtest.NewKeyFile(t, t.TempDir(), "k", "")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	private, err := ssh.ParseRawPrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return private
}

func serveAgent(t *testing.T, ring agent.Agent) (path string) {
	path = filepath.Join(t.TempDir(), "agent")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				agent.ServeAgent(ring, conn)
				conn.Close()
			}()
		}
	}()
	return path
}

func TestKeepAliveClosesADeadConnection(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{Handler: func(ctx context.Context, _ *sshtest.Session) int {
		<-ctx.Done()
		return 0
	}})
	relay := newRelay(t, s.Addr)
	o := options(s)
	o.Addr, o.KeepAlive = relay.addr, 500*time.Millisecond
	c := dial(t, o)
	result := make(chan error, 1)
	go func() {
		_, err := c.Run(t.Context(), "wait", nil, nil, nil, nil)
		result <- err
	}()
	s.WaitRunning(t, "wait")
	relay.freeze()
	select {
	case err := <-result:
		if !errors.Is(err, ErrNoStatus) {
			t.Errorf("Run: %v, want ErrNoStatus", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the command on a dead connection did not end")
	}
}

// A relay passes bytes until it is frozen; then it holds the connections open.
type relay struct {
	addr   string
	frozen chan struct{}
}

func (r *relay) freeze() { close(r.frozen) }

func newRelay(t *testing.T, to string) *relay {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{addr: listener.Addr().String(), frozen: make(chan struct{})}
	t.Cleanup(func() { listener.Close() })
	go func() {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", to)
		if err != nil {
			client.Close()
			return
		}
		t.Cleanup(func() { client.Close(); server.Close() })
		copyUntil := func(dst, src net.Conn) {
			buf := make([]byte, 32<<10)
			for {
				n, err := src.Read(buf)
				select {
				case <-r.frozen:
					return
				default:
				}
				if err != nil {
					dst.Close()
					return
				}
				dst.Write(buf[:n])
			}
		}
		go copyUntil(server, client)
		go copyUntil(client, server)
	}()
	return r
}

// TestRoundTrips counts them on a line with a delay, behind a server that is slow
// to begin with.
func TestRoundTrips(t *testing.T) {
	const delay = 20 * time.Millisecond // each way
	s := sshtest.Start(t, sshtest.Options{Handler: echo})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	pass := func(to, from net.Conn, first time.Duration) {
		defer to.Close()
		for buf := make([]byte, 32<<10); ; first = 0 {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			time.Sleep(delay + first)
			to.Write(buf[:n])
		}
	}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", s.Addr)
			if err != nil {
				client.Close()
				return
			}
			go pass(server, client, 0)
			go pass(client, server, 400*time.Millisecond)
		}
	}()
	o := options(s)
	o.Addr = listener.Addr().String()
	var counts []string
	for range 5 { // a machine that stands still for a moment counts that, too
		c := dial(t, o)
		login := c.RoundTrips()
		if status, err := c.Run(t.Context(), "x", nil, nil, nil, nil); status != 3 || err != nil {
			t.Fatalf("status %d, %v", status, err)
		}
		// The session, the command and the end of its input, one each. A busy machine may
		// tear a word in two, or hear two as one.
		after := c.RoundTrips()
		if login >= 6 && login <= 10 && after >= login+2 && after <= login+4 {
			return
		}
		counts = append(counts, fmt.Sprintf("%d round trips to log in, %d with a command", login, after))
	}
	t.Error(strings.Join(counts, "; "))
}

// A server that dies in the handshake, in whichever way its system then ends the
// connection.
func TestHangsUp(t *testing.T) {
	home(t)
	s := sshtest.Start(t, sshtest.Options{Handler: echo})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, linger := range []int{-1, 0} { // with a FIN, and with a RST
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "SSH-2.0-test\r\n")
			conn.Read(make([]byte, 1))
			conn.(*net.TCPConn).SetLinger(linger)
			conn.Close()
		}()
		o := options(s)
		o.Addr = listener.Addr().String()
		if _, err := Dial(t.Context(), o); err == nil || !strings.Contains(err.Error(), "the server closed the connection in the SSH handshake") {
			t.Errorf("linger %d: %v", linger, err)
		}
	}
}
