// Package sshclient runs commands on a server over SSH.
//
// Entry points: [Dial] connects and authenticates; [Conn.Run] runs a command to
// its end and [Conn.Start] gives its streams.
//
// It promises that no byte of a command is sent to a server whose host key was
// not checked, that every stage of connecting is bounded in time, that the end
// of a context ends what was started under it, and that no passphrase or key
// leaves the process, except that a key goes to the agent if the caller says so.
// It reads no ssh_config, and asks a person only through what the caller gives
// it to ask with; a key that it cannot use is named in the error.
package sshclient

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/session"
)

// Options is whom to connect to, as whom, and how sure to be of it.
type Options struct {
	Addr    string // "host:port"
	Network string // "tcp" (the default), "tcp4" or "tcp6"
	User    string

	// Via is a server to go through; it has to allow that.
	Via *Options
	// Before, if set, is called when the server is reached and nothing was sent
	// yet. It may wait; an error ends Dial.
	Before func(context.Context) error

	// Exactly these keys are offered, if there are any; else the one of
	// IdentityFile, if set, which must be there; else those of the agent and of
	// IdentityFiles, where nil means the usual ones in ~/.ssh.
	Signers      []ssh.Signer
	IdentityFile string

	IdentityFiles    []string
	CertificateFiles []string // besides those that lie beside the keys
	IdentitiesOnly   bool     // of the agent's keys, only those that a file names
	Agent            string   // its socket; "" for $SSH_AUTH_SOCK, or AgentNone
	Agents           *Agents  // what is known of the agents already; may be nil
	AddToAgent       bool     // give a key to the agent when a person has unlocked it

	// Keychain: ssh would find passphrases where this client cannot look, so none is
	// asked for.
	Keychain bool

	// Only this host key is accepted, if set; else those in the files, where nil
	// means the user's and the system's usual ones. A key nobody knows is met as
	// StrictHostKeys says ("" is StrictAsk), and goes to the first of KnownHosts.
	HostKey          ssh.PublicKey
	Revocable        bool // HostKey is refused nevertheless if the files revoke it
	KnownHosts       []string
	GlobalKnownHosts []string
	HostKeyAlias     string // the name to look up instead of the address
	StrictHostKeys   string
	HashKnownHosts   bool

	Algorithms Algorithms
	MinRSABits int // of host keys and of one's own, except Signers

	// Ask asks a person, and fails if nobody is there; it may be called from
	// several Dials at once. Nil is nobody. Say tells a person.
	Ask func(context.Context, Question) (string, error)
	Say func(line string)

	ConnectTimeout   time.Duration // for TCP; 5 s if zero
	HandshakeTimeout time.Duration // for key exchange and authentication; 10 s if zero
	// KeepAlive is how often to ask whether the server is still there; the
	// connection is closed when three questions in a row find no answer. Zero
	// means never.
	KeepAlive time.Duration
	Version   string // the program's name and version, without spaces

	// Connected, if set, is called when there is a TCP connection, with the time
	// that took.
	Connected func(took time.Duration)
	// Heard, if set, is called when the server has said its first word, with the
	// time since the start of Dial's connection.
	Heard func(took time.Duration)
	// Proceed, if set, is called when the server has proved that it holds its host
	// key, before anything is asked of a person or an agent. It may wait; an error
	// ends Dial. So several servers can be dialed at once and a key be touched for
	// one of them only.
	Proceed func(context.Context) error
}

// A Question is something that only a person can answer.
type Question struct {
	Text   string // as it is shown; it ends without a newline
	Secret bool   // the answer must not be shown
}

// AgentNone as Options.Agent is no agent.
const AgentNone = "none"

var (
	// ErrTimeout: the server did not answer in time.
	ErrTimeout = errors.New("no answer")
	// ErrAuth: the server accepts none of the keys there are.
	ErrAuth = errors.New("permission denied")
	// ErrInteractive: a server that accepts none of the keys would let a person in
	// who answers its questions, as for a password. This client asks none of them;
	// ssh does.
	ErrInteractive = errors.New("the server would ask for a password or the like")
	// ErrIdentity: the key file to use is missing or is none. It stays so for
	// every server.
	ErrIdentity = errors.New("identity")
	// ErrHostKeyUnknown: nothing says which host key the server should have.
	ErrHostKeyUnknown = errors.New("unknown host key")
	// ErrHostKeyChanged: the server's host key is not the one that is known.
	ErrHostKeyChanged = errors.New("host key has changed")
	// ErrHostKeyRevoked: the server's host key is one that must not be used.
	ErrHostKeyRevoked = errors.New("host key is revoked")
	// ErrHostKeyShort: the server's host key has fewer bits than it must have.
	ErrHostKeyShort = errors.New("host key is too short")
	// ErrUnsupported: this client cannot do what is needed; ssh may.
	ErrUnsupported = errors.New("not supported by the built-in SSH client")
	// ErrRefused: the server does not run the command.
	ErrRefused = errors.New("server refused the command")
	// ErrNoStatus: the connection or the command's channel ended before its
	// exit status came.
	ErrNoStatus = errors.New("connection ended before the command's exit status")
)

const (
	defaultConnect   = 5 * time.Second
	defaultHandshake = 10 * time.Second
	// personTimeout is for a person who has to touch a key or to answer. Servers
	// wait as long.
	personTimeout = 2 * time.Minute
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
	key    ssh.PublicKey // the server's
	raw    *meter
	done   chan struct{}
	err    error // why it ended; read after done
	close  func() error
	atOnce atomic.Bool // it may know session.CommandChannel
}

// Dial connects to a server, checks its host key and authenticates. The context
// bounds Dial only, not the life of the connection.
func Dial(ctx context.Context, o Options) (*Conn, error) {
	host, err := newHostCheck(ctx, o)
	if err != nil {
		return nil, err
	}
	keys, err := newKeyring(ctx, o)
	if err != nil {
		return nil, err
	}
	defer keys.close()
	algorithms, err := o.Algorithms.config()
	if err != nil {
		return nil, err
	}

	started := time.Now()
	reached, err := connect(ctx, o)
	if err != nil {
		return nil, err
	}
	raw := &meter{Conn: reached}
	if o.Heard != nil {
		raw.first = func() { o.Heard(time.Since(started)) }
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	if o.Connected != nil {
		o.Connected(time.Since(started))
	}
	if o.Before != nil {
		if err := o.Before(ctx); err != nil {
			raw.Close()
			return nil, err
		}
	}

	stage := newStage(orDefault(o.HandshakeTimeout, defaultHandshake), raw)
	defer stage.end()
	keys.patience, host.patience = stage.pause, stage.pause
	conf := &ssh.ClientConfig{
		User:              o.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeysCallback(keys.signers)},
		AuthCallback:      keys.next,
		HostKeyCallback:   host.check,
		HostKeyAlgorithms: host.algorithms,
		Config:            algorithms,
	}
	if o.Version != "" {
		conf.ClientVersion = "SSH-2.0-" + o.Version
	}
	sc, channels, requests, err := ssh.NewClientConn(raw, o.Addr, conf)
	if err != nil {
		raw.Close()
		return nil, handshakeError(ctx, err, host, keys, o, stage)
	}
	if !stop() || !stage.end() {
		raw.Close()
		return nil, handshakeError(ctx, ErrTimeout, host, keys, o, stage)
	}

	c := &Conn{client: ssh.NewClient(sc, channels, requests), key: host.shown, raw: raw, done: make(chan struct{})}
	c.close = sync.OnceValue(c.raw.Close)
	c.atOnce.Store(strings.HasPrefix(c.ServerVersion(), session.ServerVersion))
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

// HostKey is the key that the server has proved to hold, or its certificate.
func (c *Conn) HostKey() ssh.PublicKey { return c.key }

// RoundTrips is how often so far an answer was waited for: each counts one, however
// much was asked together. The TCP connection itself is the first.
func (c *Conn) RoundTrips() int { return 1 + c.raw.trips() }

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
	heard := c.raw.heard.Load()
	for {
		select {
		case <-c.done:
			return
		case <-answers:
			pending, missed = false, 0
		case <-tick.C:
			if pending {
				// The answer may wait behind a long pack on a slow line.
				if now := c.raw.heard.Load(); now != heard {
					heard, missed = now, 0
					continue
				}
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
