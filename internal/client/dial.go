package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/credential"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/prompt"
	"gitcluster/internal/remotehelper"
	"gitcluster/internal/replica"
	"gitcluster/internal/sshclient"
)

// errOtherProgram: Git's configuration names another SSH client.
var errOtherProgram = errors.New("another SSH program is configured")

// dial connects and logs in to a candidate, or prepares to run another SSH
// program that does. The stages hear of it on the way.
func (c *connector) dial(ctx context.Context, candidate replica.Candidate, o remotehelper.Options, st stages) (transport, error) {
	a := c.account(o)
	if proceed := st.proceed; proceed != nil {
		// Once, for our own client and for a program that stands in for it.
		var once sync.Once
		var err error
		st.proceed = func(ctx context.Context) error {
			once.Do(func() { err = proceed(ctx) })
			return err
		}
	}
	// Git's configuration has the last word on the program, and is read while the
	// first connection is made.
	configured := func(ctx context.Context) error {
		s, err := c.await(ctx)
		if err == nil && s.sshCommand != "" {
			err = errOtherProgram
		}
		return err
	}
	if c.Getenv(envSSHCommand) != "" || c.Getenv(envSSH) != "" {
		return c.program(ctx, a, nil, candidate, o, st)
	}
	r, err := a.route(ctx, candidate)
	if err != nil {
		if configured(ctx) == errOtherProgram {
			return c.program(ctx, a, nil, candidate, o, st)
		}
		return nil, err
	}
	if len(r.beyond) > 0 {
		return c.program(ctx, a, r.beyond, candidate, o, st)
	}
	r.bound(c.Limits, network(o), st, configured)
	conn, err := sshclient.Dial(ctx, r.options)
	if err == nil {
		return connection{Conn: conn, direct: r.options.Via == nil}, nil
	}
	if context.Cause(ctx) == nil {
		if configured(ctx) == errOtherProgram {
			return c.program(ctx, a, nil, candidate, o, st)
		}
		// Nobody sits at a device, and no password makes anyone one.
		person := !r.host.Batch && prompt.MayAsk(ctx) && !credential.AsDevice(c.Getenv) && a.person.Reachable()
		if why, ok := r.retryable(err, person); ok {
			if t, err := c.program(ctx, a, why, candidate, o, st); err == nil {
				return t, nil
			}
		}
	}
	return nil, unnamedPort(err, candidate, r.host.Port)
}

// unnamedPort says what may be wrong where nothing listens at SSH's port, which is
// taken because nobody has named one.
func unnamedPort(err error, candidate replica.Candidate, port int) error {
	const onWindows = 10061 // WSAECONNREFUSED, which is another than ECONNREFUSED
	errno := syscall.Errno(0)
	if !candidate.DefaultPort || port != 22 || !errors.As(err, &errno) || errno != syscall.ECONNREFUSED && errno != onWindows {
		return err
	}
	at := net.JoinHostPort(hostOf(candidate), "2222")
	form := fmt.Sprintf("ssh = %q in client.toml", at)
	if strings.HasPrefix(candidate.Origin, replica.HostOrigin) {
		form = "cluster://" + at + "/REPOSITORY"
	}
	return cluster.WithHint(err, "without a port, 22 is meant; nodes listen on 2222 unless they were told otherwise: "+form)
}

// account is how this run uses SSH.
func (c *connector) account(o remotehelper.Options) *account {
	c.once.Do(func() {
		c.own = newAccount(c.Getenv)
		c.own.person.AskPass = func(ctx context.Context) (string, error) {
			s, err := c.await(ctx)
			return s.askPass, err
		}
		if o.Verbosity > 1 {
			c.own.say = func(line string) { c.log.say("%s", line) }
		}
	})
	return c.own
}

// program prepares to run another SSH program for a candidate: the one that Git
// would run, or ssh because of the settings in why.
func (c *connector) program(ctx context.Context, a *account, why []string, candidate replica.Candidate, o remotehelper.Options, st stages) (transport, error) {
	s, err := c.await(ctx)
	if err != nil {
		return nil, err
	}
	p, chosen := findProgram(c.Getenv, s)
	if chosen {
		err = a.exclusive(p)
	} else if _, missing := gitexec.Find(p.command); missing != nil {
		err = fmt.Errorf("ssh is needed because of %s: %w", strings.Join(why, ", "), missing)
	}
	if err != nil {
		return nil, err
	}
	r, err := a.route(ctx, candidate)
	if err != nil {
		return nil, err
	}
	if st.proceed != nil {
		if err := st.proceed(ctx); err != nil {
			return nil, err
		}
	}
	limit := orDefault(c.Limits.Connect, connectLimit)
	if chosen {
		limit = 0 // it gets what Git would give it
	}
	t, err := newProgramTransport(p, candidate, r, o.Family, limit, a.person)
	if err != nil {
		return nil, err
	}
	if t.openSSH && !prompt.MayAsk(ctx) {
		t.aim.extra = append(t.aim.extra, "-o", "BatchMode=yes")
	}
	if a.say != nil {
		reason := ""
		if !chosen {
			reason = " because of " + strings.Join(why, ", ")
		}
		// A node synchronizes before it serves, whether it is asked to or not.
		a.say(fmt.Sprintf("%s: running %v%s, without %s, which would be a second connection", candidate.Name, p, reason, syncCommand))
	}
	return t, nil
}

// connectLimit is how long ssh may take to connect if nothing else says so:
// another replica may be waiting for its turn.
const connectLimit = 5 * time.Second

// direct reports whether a transport's time is that of a connection to the
// replica's own address.
func direct(conn transport) bool {
	c, ok := conn.(connection)
	return ok && c.direct
}
