package credential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
)

// A Helper answers Git's questions for a credential with this device's
// identity. It keeps nothing: every answer is made anew from the device
// directory.
type Helper struct {
	Getenv  func(string) string
	Environ []string // for the Git commands it runs; nil for none, and so for no hosts of Configure
	Now     func() time.Time
}

// Get reads a request and writes the answer to it. It returns when ctx ends, at
// the latest; a read that still waits then is left behind, so the program
// should end.
//
// If the error is not nil and the device's identity was asked for, Git has been
// told to stop: to go on to another helper or a prompt would be to act as
// somebody else.
func (h *Helper) Get(ctx context.Context, in io.Reader, out io.Writer) error {
	if !AsDevice(h.Getenv) {
		Discard(ctx, in)
		return nil
	}
	type result struct {
		answer Answer
		err    error
	}
	done := make(chan result, 1)
	go func() {
		q, err := ReadRequest(in)
		if err != nil {
			done <- result{quit, err}
			return
		}
		a, err := h.Answer(ctx, q)
		done <- result{a, err}
	}()
	r := result{answer: quit}
	select {
	case r = <-done:
	case <-ctx.Done():
		r.err = context.Cause(ctx)
	}
	_, err := r.answer.WriteTo(out)
	return errors.Join(r.err, err)
}

// Discard reads a request and forgets it. There is nothing to say about it,
// whatever it is.
func Discard(ctx context.Context, in io.Reader) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ReadRequest(in)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// Capabilities says which optional parts of the protocol the helper knows.
func Capabilities(out io.Writer) error {
	_, err := io.WriteString(out, "version 0\ncapability authtype\n")
	return err
}

// Answer answers one request. With an error comes the answer that stops Git.
func (h *Helper) Answer(ctx context.Context, q Request) (Answer, error) {
	if !AsDevice(h.Getenv) {
		return nil, nil
	}
	switch q.Protocol {
	case "https", "ssh", "http":
	default:
		return nil, nil
	}
	host, err := Audience(q.Host)
	if err != nil {
		return nil, nil // so it is none that we know
	}
	id, idErr := read(Dir(h.Getenv))
	known, err := h.knows(ctx, host, id)
	switch {
	case err != nil:
		return quit, err
	case !known && idErr != nil && !errors.Is(idErr, ErrNoDevice):
		return quit, idErr // it may be one of those that cannot be read
	case !known:
		return nil, nil
	}
	var users []string
	if q.Protocol != "ssh" && q.Username != "" && (id == nil || q.Username != UserPrefix+string(id.Name)) {
		// Over SSH the name is that of an account and says nothing of who asks.
		users = append(users, fmt.Sprintf("the user name %q", clip(q.Username)))
	}
	if err := Conflict(h.Getenv, users...); err != nil {
		return quit, err
	}
	if idErr != nil {
		return quit, idErr
	}
	if q.Protocol == "http" {
		// Whoever reads the connection could use the token until it expires.
		return quit, cluster.WithHint(fmt.Errorf("the device's identity is not shown to %s over an unencrypted connection", host),
			"use https:// or cluster::")
	}
	if err := id.loadKey(); err != nil {
		return quit, err
	}
	var a Answer
	if q.Protocol == "ssh" {
		a = id.handle(q.Username)
	} else {
		a, err = h.token(ctx, id, host, q.AuthType)
	}
	if err != nil {
		return quit, err
	}
	return a, nil
}

// Vouched is the answer for a node of the device's own cluster that only another node
// has named. The host key by which it is known is the caller's to demand. Of the
// servers by whose word it is one, the enrolment must have named one: any other could
// claim to speak for this cluster.
func (h *Helper) Vouched(clusterID string, vouchers []string) (Answer, error) {
	if !AsDevice(h.Getenv) {
		return nil, nil
	}
	id, err := read(Dir(h.Getenv))
	if err != nil || id.ClusterID != clusterID || !slices.ContainsFunc(vouchers, func(v string) bool {
		host, err := Audience(v)
		return err == nil && id.enrolledWith(host)
	}) {
		return nil, nil // Answer has said what is wrong with the identity
	}
	if err := Conflict(h.Getenv); err != nil {
		return quit, err
	}
	if err := id.loadKey(); err != nil {
		return quit, err
	}
	return id.handle(""), nil
}

// handle names the key to whoever connects over SSH. The key itself is never
// sent: it would pass through other programs' memory and logs.
func (id *Identity) handle(user string) Answer {
	if user == "" {
		user = config.DefaultUser
	}
	a := Answer{{"username", user}}
	if id.Agent != "" {
		a = append(a, Attribute{"identityagent", id.Agent})
	} else {
		a = append(a, Attribute{"identityfile", id.KeyFile()})
	}
	return append(a, Attribute{"fingerprint", id.Fingerprint()})
}

func (h *Helper) token(ctx context.Context, id *Identity, host string, authType bool) (Answer, error) {
	token, expires, err := Issue(ctx, id, host, h.Now())
	if err != nil {
		return nil, err
	}
	// Git of either kind drops what has expired, and other helpers that keep
	// credentials are told for how long this one is worth it.
	expiry := Attribute{"password_expiry_utc", strconv.FormatInt(expires.Unix(), 10)}
	if authType {
		return Answer{{"capability[]", "authtype"}, {"authtype", Scheme}, {"credential", token}, {"ephemeral", "1"}, expiry}, nil
	}
	return Answer{{"username", UserPrefix + string(id.Name)}, {"password", token}, expiry}, nil
}

// knows reports whether the host is a node of a cluster as far as this machine
// was told: by the enrolment, by the client's configuration, or by Configure.
// To any other it must not so much as show the device's name.
func (h *Helper) knows(ctx context.Context, host string, id *Identity) (bool, error) {
	if id != nil && id.enrolledWith(host) {
		return true, nil
	}
	client, err := config.LoadClient(config.ClientPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err == nil {
		for _, k := range client.Clusters {
			for _, n := range k.Nodes {
				if name, err := Audience(n.Addr()); err == nil && name == host {
					return true, nil
				}
			}
		}
	}
	if h.Environ == nil {
		return false, nil
	}
	urls, err := h.configured(ctx)
	if err != nil {
		return false, err
	}
	for _, url := range urls {
		rest, ok := strings.CutPrefix(url, "https://")
		if !ok {
			continue
		}
		authority, _, _ := strings.Cut(rest, "/")
		if name, err := Audience(authority); err == nil && name == host {
			return true, nil
		}
	}
	return false, nil
}

// enrolledWith reports whether the enrolment named a host, by its audience.
func (id *Identity) enrolledWith(host string) bool {
	return slices.ContainsFunc(id.Hosts, func(known string) bool {
		name, err := Audience(known)
		return err == nil && name == host
	})
}
