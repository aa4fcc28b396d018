// Package login says who an HTTP request comes from: a user with an access token, a
// device with a token that it signed, or nobody.
//
// Entry points: [New]; [Login.Request] reads a request's Authorization header,
// [Login.Cookie] the cookie of a signed-in browser, and [Login.Token] takes a
// token that came another way.
//
// It promises that a right token is accepted however many wrong ones came before
// it, that wrong ones cost the journal almost nothing and the log a bounded number of lines, and that
// the reason for a refusal is in the log alone. Nothing in a request says where it comes
// from but its connection: a proxy's headers can take rights away and never give any.
package login

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/credential"
	"gitcluster/internal/share"
)

var (
	// ErrBad: the credentials are worth nothing here (401).
	ErrBad = cluster.WithHint(errors.New("the credentials are not valid"),
		"the password is an access token: git cluster user token create; a device needs PHABRICATOR_AS_DEVICE=1 and git-credential-device")
	// ErrTooMany: wrong credentials, after too many others from the same
	// address (429). They were not looked up.
	ErrTooMany = cluster.WithHint(errors.New("too many failed logins from this address"), "try again in a minute")
)

// RetryAfter is when a refusal with [ErrTooMany] may end.
const RetryAfter = failureWindow

// CookieName is that of the cookie that holds a browser's token. The prefix makes
// browsers send it over TLS alone, and take it from this host alone (RFC 6265bis).
const CookieName = "__Host-gitcluster"

// Rules give the current rules of access.
type Rules interface {
	// Snapshot returns the rules as last heard of.
	Snapshot() *access.Directory
	// Refresh returns the rules after everything that was changed before the call.
	Refresh(ctx context.Context) (*access.Directory, error)
}

// Options are what a login works with.
type Options struct {
	Cluster string // the cluster's id
	// Names returns the hosts by which this node knows itself. A device's token is
	// for one of them or for somebody else. The Host header of a request is no
	// such name: whoever stole a token would put it there.
	Names func() []string
	Rules Rules
	Now   func() time.Time // nil for time.Now
	Log   *slog.Logger
}

// A Login tells identities. Its methods are safe for concurrent use.
type Login struct {
	Options
	failures failures
	refusals refusals
	reads    share.Call[*access.Directory]
	lastRead struct { // touched only within reads
		at  time.Time
		err error
	}
}

// New returns a login.
func New(o Options) *Login {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Login{Options: o, refusals: refusals{log: o.Log}}
}

// Request says who a request comes from by its Authorization header: one of
//
//	Basic         any user name, with a user's token as the password; or the
//	              token as the user name; or device/NAME with a device's token
//	ClusterDevice a device's token
//	Bearer        either token
//
// A request without the header comes from nobody, the zero Identity, and that is
// no error. Errors are [ErrBad], [ErrTooMany], or wrap [cluster.ErrUnavailable] where
// only the journal could tell.
func (l *Login) Request(r *http.Request) (cluster.Identity, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return cluster.Identity{}, nil
	}
	c, err := credentials{}, errors.New("several Authorization headers")
	if len(headers) == 1 {
		c, err = parse(headers[0])
	}
	return l.check(r.Context(), Remote(r), c, err)
}

// Cookie says who a browser has signed in as. A browser sends its cookie
// with whatever another site makes it ask for, so it counts only for handlers that
// guard what they change against that.
func (l *Login) Cookie(r *http.Request) (cluster.Identity, error) {
	cookie, err := r.Cookie(CookieName)
	if err != nil {
		return cluster.Identity{}, nil
	}
	return l.Token(r.Context(), Remote(r), cookie.Value)
}

// Token says whose a token is, a user's or a device's, that came from an address
// as [Remote] gives it. Errors are as those of [Login.Request].
func (l *Login) Token(ctx context.Context, remote netip.Addr, token string) (cluster.Identity, error) {
	return l.check(ctx, remote, credentials{token: token}, nil)
}

// Remote is the address of a request's client, as far as it is known: the zero
// address, which is in no trusted network, if a proxy passed the request on. What
// a proxy says of the client is not believed, since anybody can say it.
func Remote(r *http.Request) netip.Addr {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip"} {
		if len(r.Header.Values(name)) > 0 {
			return netip.Addr{}
		}
	}
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return remote.Addr().Unmap()
}

// credentials are a token and what else was said of its holder.
type credentials struct {
	token  string
	device cluster.DeviceName // whose it must be
	kind   kind
}

// A kind narrows what a token may be.
type kind int

const (
	ofAnybody kind = iota
	ofUser
	ofDevice
)

func parse(header string) (credentials, error) {
	scheme, rest, _ := strings.Cut(header, " ")
	rest = strings.Trim(rest, " ")
	switch {
	case strings.EqualFold(scheme, credential.Scheme):
		return credentials{token: rest, kind: ofDevice}, nil
	case strings.EqualFold(scheme, "Bearer"):
		return credentials{token: rest}, nil
	case !strings.EqualFold(scheme, "Basic"):
		return credentials{}, errors.New("an authentication scheme that is not known")
	}
	raw, err := base64.StdEncoding.DecodeString(rest)
	user, password, ok := strings.Cut(string(raw), ":")
	if err != nil || !ok {
		return credentials{}, errors.New("malformed Basic credentials")
	}
	if name, ok := strings.CutPrefix(user, credential.UserPrefix); ok {
		device, err := cluster.ParseDeviceName(name)
		return credentials{token: password, device: device, kind: ofDevice}, err
	}
	if password == "" || password == "x-oauth-basic" { // as scripts written for other hosts have it
		password = user
	}
	return credentials{token: password, kind: ofUser}, nil
}

// check judges credentials, or counts the failure to read them.
func (l *Login) check(ctx context.Context, remote netip.Addr, c credentials, err error) (cluster.Identity, error) {
	var id cluster.Identity
	if err == nil {
		// A right token costs no more than this, and comes before all limits:
		// otherwise one machine's wrong ones would shut out everybody behind the
		// same address.
		if id, err = l.judge(l.Rules.Snapshot(), c, remote); err == nil {
			return id, nil
		}
	}
	source := access.Source(remote)
	if !l.failures.count(source, l.Now()) {
		l.refusals.add(remote, errors.New("too many failures"), l.Now())
		return cluster.Identity{}, ErrTooMany
	}
	if errors.Is(err, errNews) {
		rules, failed := l.refresh(ctx)
		if failed != nil {
			l.failures.forgive(source)
			return cluster.Identity{}, fmt.Errorf("whose the credentials are cannot be told: %w", failed)
		}
		if id, err = l.judge(rules, c, remote); err == nil {
			l.failures.forgive(source)
			return id, nil
		}
	}
	l.refusals.add(remote, err, l.Now())
	return cluster.Identity{}, ErrBad
}

// errNews marks a refusal that a change of the rules a moment ago could turn into
// its opposite.
var errNews = errors.New("as far as this node has heard")

// judge says whose credentials are by the rules, without any I/O.
func (l *Login) judge(rules *access.Directory, c credentials, remote netip.Addr) (cluster.Identity, error) {
	if strings.HasPrefix(c.token, access.UserTokenPrefix) {
		if c.kind == ofDevice {
			return cluster.Identity{}, errors.New("a user's token, shown as a device's")
		}
		id, err := rules.ByToken(c.token, l.Now())
		if errors.Is(err, access.ErrUnknownToken) {
			err = fmt.Errorf("%w, %w", err, errNews)
		}
		return id, err
	}
	if c.kind == ofUser {
		return cluster.Identity{}, errors.New("the password is no access token")
	}
	device, err := l.device(rules, c.token)
	if err != nil {
		return cluster.Identity{}, err
	}
	if c.device != "" && c.device != device {
		return cluster.Identity{}, fmt.Errorf("a token of the device %q, shown as that of %q", device, c.device)
	}
	id := cluster.Identity{Device: device}
	if err := rules.Admit(id, remote); err != nil {
		return cluster.Identity{}, err
	}
	return id, nil
}

// device says whose a device's token is, if it is for one of this node's names.
func (l *Login) device(rules *access.Directory, token string) (cluster.DeviceName, error) {
	unknown := false
	lookup := func(name cluster.DeviceName) (string, bool) {
		v, ok := rules.Device(name)
		ok = ok && v.Enabled && v.Trusted
		unknown = !ok
		return v.PublicKey, ok
	}
	var failures []string
	for _, name := range l.Names() {
		claims, err := credential.Verify(token, name, l.Cluster, l.Now(), lookup)
		if err == nil {
			return claims.Device, nil
		}
		if unknown {
			return "", fmt.Errorf("%w, %w", err, errNews)
		}
		failures = append(failures, err.Error())
	}
	return "", errors.New(strings.Join(failures, "; "))
}

// Strangers share reads of the journal, and these are not made more often, nor
// waited for longer, nor soon again when the journal does not answer.
const (
	readPace     = 100 * time.Millisecond
	readPatience = time.Second
	readSilence  = 5 * time.Second
)

func (l *Login) refresh(ctx context.Context) (*access.Directory, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*readPatience, cluster.ErrUnavailable)
	defer cancel()
	return l.reads.Do(ctx, func() (*access.Directory, error) {
		last := &l.lastRead
		if last.err != nil && time.Since(last.at) < readSilence {
			return nil, last.err
		}
		if wait := readPace - time.Since(last.at); wait > 0 {
			time.Sleep(wait)
		}
		ctx, cancel := context.WithTimeoutCause(context.Background(), readPatience, cluster.ErrUnavailable)
		defer cancel()
		rules, err := l.Rules.Refresh(ctx)
		last.at, last.err = time.Now(), err
		return rules, err
	})
}
