// Package sshclient runs commands on a server over SSH.
//
// Entry points: [Dial] connects and authenticates; [Conn.Run] runs a command to
// its end and [Conn.Start] gives its streams.
//
// It promises that no byte of a command is sent to a server whose host key was
// not checked, that every stage of connecting is bounded in time, that the end
// of a context ends what was started under it, and that no passphrase or key
// leaves the process. It never asks a question: a key it cannot use without one
// is skipped and named in the error.
package sshclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
)

// Options is whom to connect to, as whom, and how sure to be of it.
type Options struct {
	Addr    string // "host:port"
	Network string // "tcp" (the default), "tcp4" or "tcp6"
	User    string

	// Exactly these keys are offered, if there are any; else the one of
	// IdentityFile, if set; else those of the agent and of ~/.ssh.
	Signers      []ssh.Signer
	IdentityFile string

	// Only this host key is accepted, if set; else those in KnownHosts, if set;
	// else those in the user's and the system's known_hosts files.
	HostKey    ssh.PublicKey
	KnownHosts []string

	ConnectTimeout   time.Duration // for TCP; 5 s if zero
	HandshakeTimeout time.Duration // for key exchange and authentication; 10 s if zero
	// KeepAlive is how often to ask whether the server is still there; the
	// connection is closed when three questions in a row find no answer. Zero
	// means never.
	KeepAlive time.Duration
	Version   string // the program's name and version, without spaces
}

var (
	// ErrTimeout: the server did not answer in time.
	ErrTimeout = errors.New("no answer")
	// ErrAuth: the server accepts none of the keys there are.
	ErrAuth = errors.New("permission denied")
	// ErrIdentity: the key file to use is missing or is none. It stays so for
	// every server.
	ErrIdentity = errors.New("identity")
	// ErrHostKeyUnknown: nothing says which host key the server should have.
	ErrHostKeyUnknown = errors.New("unknown host key")
	// ErrHostKeyChanged: the server's host key is not the one that is known.
	ErrHostKeyChanged = errors.New("host key has changed")
	// ErrRefused: the server does not run the command.
	ErrRefused = errors.New("server refused the command")
	// ErrNoStatus: the connection or the command's channel ended before its
	// exit status came.
	ErrNoStatus = errors.New("connection ended before the command's exit status")
)

const (
	defaultConnect   = 5 * time.Second
	defaultHandshake = 10 * time.Second
	// signTimeout is for a person who has to touch a key or answer an agent.
	signTimeout = 60 * time.Second
	// closeGrace is how long a server may take to confirm that a command was
	// ended before the whole connection counts as dead.
	closeGrace = 3 * time.Second
	// missedKeepAlives is more than one since a process that was stopped for a
	// while finds its timer run out before it reads the answer that had come.
	missedKeepAlives = 3
)

// A Conn is an authenticated connection. Its methods may be called from several
// goroutines.
type Conn struct {
	client *ssh.Client
	raw    net.Conn
	done   chan struct{}
	err    error // why it ended; read after done
	close  func() error
}

// Dial connects to a server, checks its host key and authenticates. The context
// bounds Dial only, not the life of the connection.
func Dial(ctx context.Context, o Options) (*Conn, error) {
	host, err := newHostCheck(o)
	if err != nil {
		return nil, err
	}
	keys, err := newKeyring(ctx, o)
	if err != nil {
		return nil, err
	}
	defer keys.close()

	raw, err := connect(ctx, o)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()

	limit := orDefault(o.HandshakeTimeout, defaultHandshake)
	raw.SetDeadline(time.Now().Add(limit))
	keys.patience = func() func() {
		raw.SetDeadline(time.Now().Add(signTimeout))
		return func() { raw.SetDeadline(time.Now().Add(limit)) }
	}
	conf := &ssh.ClientConfig{
		User:              o.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeysCallback(keys.signers)},
		HostKeyCallback:   host.check,
		HostKeyAlgorithms: host.algorithms,
		Config:            ssh.Config{KeyExchanges: keyExchanges, Ciphers: ciphers()},
	}
	if o.Version != "" {
		conf.ClientVersion = "SSH-2.0-" + o.Version
	}
	sc, channels, requests, err := ssh.NewClientConn(raw, o.Addr, conf)
	if err != nil {
		raw.Close()
		return nil, handshakeError(ctx, err, host, keys, o, limit)
	}
	if !stop() {
		raw.Close()
		return nil, context.Cause(ctx)
	}
	raw.SetDeadline(time.Time{})

	c := &Conn{client: ssh.NewClient(sc, channels, requests), raw: raw, done: make(chan struct{})}
	c.close = sync.OnceValue(c.raw.Close)
	go func() {
		c.err = c.client.Wait()
		close(c.done)
	}()
	if o.KeepAlive > 0 {
		go c.keepAlive(o.KeepAlive)
	}
	return c, nil
}

// ServerVersion is the server's identification line, such as "SSH-2.0-OpenSSH_9.2".
func (c *Conn) ServerVersion() string { return string(c.client.ServerVersion()) }

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Close ends the connection and every command on it. The server learns of it by
// the end of the TCP connection, so Close never waits.
func (c *Conn) Close() error { return c.close() }

// Run runs a command to its end and returns its exit status. A nil stdin is
// empty; nil stdout and stderr are discarded. The error is nil whenever there is
// an exit status.
func (c *Conn) Run(ctx context.Context, command string, env map[string]string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	s, err := c.Start(ctx, command, env, stderr)
	if err != nil {
		return -1, err
	}
	defer s.Close()
	if stdin == nil {
		s.CloseWrite()
	} else {
		// Not waited for: a command may end without reading what it was given,
		// while stdin blocks.
		go func() {
			if _, err := io.Copy(s, stdin); err == nil {
				s.CloseWrite()
			}
		}()
	}
	if stdout == nil {
		stdout = io.Discard
	}
	if _, err := io.Copy(stdout, s); err != nil {
		return -1, err
	}
	return s.Wait()
}

func (c *Conn) keepAlive(interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	answers := make(chan struct{}, 1)
	pending, missed := false, 0
	for {
		select {
		case <-c.done:
			return
		case <-answers:
			pending, missed = false, 0
		case <-tick.C:
			if pending {
				if missed++; missed >= missedKeepAlives {
					c.Close()
					return
				}
				continue
			}
			pending = true
			go func() {
				// A refusal is an answer too.
				if _, _, err := c.client.SendRequest("keepalive@openssh.com", true, nil); err == nil {
					answers <- struct{}{}
				}
			}()
		}
	}
}

func connect(ctx context.Context, o Options) (net.Conn, error) {
	limit := orDefault(o.ConnectTimeout, defaultConnect)
	network := o.Network
	if network == "" {
		network = "tcp"
	}
	dialer := net.Dialer{Timeout: limit}
	conn, err := dialer.DialContext(ctx, network, o.Addr)
	if err == nil {
		return conn, nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	if isTimeout(err) {
		return nil, fmt.Errorf("%w within %v", ErrTimeout, limit)
	}
	// "dial tcp ADDR: connect:" says nothing the caller does not say better.
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err
	}
	if call := (*os.SyscallError)(nil); errors.As(err, &call) {
		err = call.Err
	}
	return nil, err
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// keyExchanges has X25519 first: it is the cheapest, and every command of a
// user pays for one.
var keyExchanges = []string{
	ssh.KeyExchangeCurve25519,
	ssh.KeyExchangeECDHP256,
	ssh.KeyExchangeMLKEM768X25519,
	ssh.KeyExchangeECDHP384,
	ssh.KeyExchangeECDHP521,
	ssh.KeyExchangeDH14SHA256,
	ssh.KeyExchangeDH16SHA512,
}

// ciphers has AES-GCM first where the processor computes it, as it is then
// several times as fast as anything else.
func ciphers() []string {
	aes := []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}
	rest := []string{ssh.CipherAES128CTR, ssh.CipherAES192CTR, ssh.CipherAES256CTR}
	fast := cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL || cpu.S390X.HasAESGCM
	if fast {
		return append(append(aes, ssh.CipherChaCha20Poly1305), rest...)
	}
	return append(append([]string{ssh.CipherChaCha20Poly1305}, aes...), rest...)
}
