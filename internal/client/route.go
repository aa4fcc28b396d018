package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/config"
	"gitcluster/internal/credential"
	"gitcluster/internal/prompt"
	"gitcluster/internal/replica"
	"gitcluster/internal/sshclient"
	"gitcluster/internal/sshconfig"
)

// An account is how the person who started Git uses SSH: their ssh_config, and
// themselves where something has to be asked.
type account struct {
	getenv func(string) string
	config *sshconfig.Config
	person *prompt.Person
	agents sshclient.Agents
	say    func(line string) // may be nil
}

func newAccount(getenv func(string) string) *account {
	return &account{getenv: getenv, config: sshconfig.New(getenv), person: &prompt.Person{Getenv: getenv}}
}

// A route is how to reach a candidate.
type route struct {
	options   sshclient.Options
	host      *sshconfig.Host
	beyond    []string // why ssh has to be run instead
	ifRefused []string // why it may get in where the server takes no key from us
}

// maxJumps bounds the servers on the way; jumps could lead in a circle.
const maxJumps = 8

// route says how to reach a candidate. What its address says goes before
// client.toml, which goes before ssh_config; the user is at last "git".
func (a *account) route(ctx context.Context, candidate replica.Candidate) (*route, error) {
	aimed, err := target(candidate)
	if err != nil {
		return nil, err
	}
	host, err := a.config.Lookup(aimed)
	if err != nil {
		return nil, &finalError{err} // it is the same for every replica
	}
	r := &route{options: a.options(host), host: host, beyond: host.Beyond, ifRefused: host.IfRefused}
	o := &r.options
	o.KeepAlive, o.Revocable = keepAlive, true
	if candidate.Identity != "" {
		o.IdentityFile = candidate.Identity
	}
	if candidate.KnownHosts != "" {
		o.KnownHosts, o.GlobalKnownHosts = []string{candidate.KnownHosts}, []string{}
	}
	if candidate.HostKey != "" {
		if o.HostKey, _, _, _, err = ssh.ParseAuthorizedKey([]byte(candidate.HostKey)); err != nil {
			return nil, fmt.Errorf("host key of %s: %w", candidate.Name, err)
		}
	}
	if o.Via, err = a.via(r, host.Jumps, maxJumps); err != nil {
		return nil, &finalError{err}
	}
	return r, identify(ctx, candidate, a.getenv, o)
}

// target is what ssh_config is asked for to reach a candidate.
func target(candidate replica.Candidate) (sshconfig.Target, error) {
	host, port, err := net.SplitHostPort(candidate.Addr)
	if err != nil {
		return sshconfig.Target{}, err
	}
	t := sshconfig.Target{Host: host, User: candidate.User, DefaultUser: config.DefaultUser}
	if candidate.DefaultPort {
		return t, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return t, fmt.Errorf("%q: bad port", candidate.Addr)
	}
	t.Port = int(n)
	return t, nil
}

// via says how to reach the last of the servers on a way. Only the first may have
// a way of its own, as with ssh.
func (a *account) via(r *route, jumps []sshconfig.Target, left int) (via *sshclient.Options, err error) {
	if left -= len(jumps); left < 0 {
		return nil, fmt.Errorf("SSH configuration: ProxyJump goes through more than %d servers, or in a circle", maxJumps)
	}
	for i, jump := range jumps {
		host, err := a.config.Lookup(jump)
		if err != nil {
			return nil, err
		}
		r.beyond = append(r.beyond, host.Beyond...)
		o := a.options(host)
		if o.Via = via; i == 0 {
			if o.Via, err = a.via(r, host.Jumps, left); err != nil {
				return nil, err
			}
		}
		via = &o
	}
	return via, nil
}

// options are those that ssh_config gives.
func (a *account) options(h *sshconfig.Host) sshclient.Options {
	o := sshclient.Options{
		Addr:             net.JoinHostPort(h.Name, strconv.Itoa(h.Port)),
		User:             h.User,
		IdentityFiles:    h.IdentityFiles,
		CertificateFiles: h.CertificateFiles,
		IdentitiesOnly:   h.IdentitiesOnly,
		Agent:            h.IdentityAgent,
		Agents:           &a.agents,
		AddToAgent:       h.AddKeysToAgent,
		Keychain:         h.UseKeychain && runtime.GOOS == "darwin",
		KnownHosts:       h.UserKnownHosts,
		GlobalKnownHosts: h.GlobalKnownHosts,
		HostKeyAlias:     h.HostKeyAlias,
		StrictHostKeys:   h.StrictHostKeys,
		HashKnownHosts:   h.HashKnownHosts,
		Algorithms:       sshclient.Algorithms{HostKeys: h.HostKeyAlgorithms, Ciphers: h.Ciphers, MACs: h.MACs, KeyExchanges: h.KexAlgorithms, CASignatures: h.CASignatureAlgorithms},
		MinRSABits:       h.RequiredRSABits,
		ConnectTimeout:   h.ConnectTimeout,
		Version:          "gitcluster",
		Say:              a.say,
	}
	switch h.AddressFamily {
	case "inet":
		o.Network = "tcp4"
	case "inet6":
		o.Network = "tcp6"
	}
	if !h.Batch {
		o.Ask = func(ctx context.Context, q sshclient.Question) (string, error) {
			return a.person.Ask(ctx, q.Text, q.Secret)
		}
	}
	return o
}

// bound sets what the caller of dial wants: limits for every stage, and to hear of
// it. The person is asked nothing, on no server of the way, before proceed.
func (r *route) bound(limits Limits, network string, st stages, before func(context.Context) error) {
	r.options.Connected = st.connected
	if r.options.Via == nil { // else it is the time to several servers
		r.options.Heard = st.heard
	}
	for o := &r.options; o != nil; o = o.Via {
		if limits.Connect > 0 {
			o.ConnectTimeout = limits.Connect
		}
		o.HandshakeTimeout, o.Proceed = st.handshake, st.proceed
		if network != "" {
			o.Network = network
		}
		if o.Via == nil {
			o.Before = before
		}
	}
}

// retryable reports whether ssh may succeed where the built-in client has failed,
// and why. person is whether somebody could answer its questions.
func (r *route) retryable(err error, person bool) (why []string, ok bool) {
	if errors.Is(err, sshclient.ErrUnsupported) {
		return []string{printable(err.Error())}, true
	}
	if errors.Is(err, sshclient.ErrAuth) && len(r.ifRefused) > 0 {
		return r.ifRefused, true
	}
	if errors.Is(err, sshclient.ErrInteractive) && person {
		return []string{printable(err.Error())}, true
	}
	return nil, false
}

// exclusive is an error if a device's identity is asked for together with an SSH
// program that brings its own.
func (a *account) exclusive(p program) error {
	if err := credential.Conflict(a.getenv, p.from); err != nil {
		return &finalError{err}
	}
	return nil
}
