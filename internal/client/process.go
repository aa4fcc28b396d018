package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/durable"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/prompt"
	"gitcluster/internal/replica"
	"gitcluster/internal/sshclient"
)

// A programTransport runs an SSH program for each command.
type programTransport struct {
	program program
	aim     aim
	variant string // "" until it is found out
	// ownUser is the user whom ssh finds in the file that named them.
	ownUser bool
	// openSSH: the program is OpenSSH by its name, by a setting or by what it says of
	// itself, and so takes all of that's options and not only those that Git uses.
	openSSH bool
	settled bool
	route   *route
	connect time.Duration // bounds OpenSSH's connection
	person  *prompt.Person

	mu      sync.Mutex
	closed  bool
	running []*process
}

// probeTimeout bounds the question to a program what options it takes, settingTimeout
// that to one of which that is known.
const (
	probeTimeout   = 10 * time.Second
	settingTimeout = 3 * time.Second
)

// newProgramTransport starts nothing yet. connect bounds the connection of
// OpenSSH; 0 leaves that to it.
func newProgramTransport(p program, candidate replica.Candidate, r *route, family string, connect time.Duration, person *prompt.Person) (*programTransport, error) {
	t := &programTransport{program: p, variant: p.variant, route: r, connect: connect, person: person}
	if t.variant == "" {
		t.variant = p.named()
	}
	t.openSSH = t.variant == variantSSH
	t.aim = aim{host: hostOf(candidate), family: family, user: r.options.User}
	if !candidate.DefaultPort {
		t.aim.port = r.host.Port
	}
	t.ownUser = r.host.UserSet && r.options.User == r.host.User
	if !t.openSSH {
		return t, nil
	}
	return t, t.isOpenSSH()
}

// isOpenSSH has the program get OpenSSH's options.
func (t *programTransport) isOpenSSH() (err error) {
	t.openSSH = true
	if len(t.route.options.Signers) > 0 {
		return errors.New("the device's key is in an agent, from which ssh cannot be told to take it alone")
	}
	t.aim.extra, err = openSSHOptions(t.route, t.connect)
	return err
}

func hostOf(candidate replica.Candidate) string {
	host, _, err := net.SplitHostPort(candidate.Addr)
	if err != nil {
		return candidate.Addr
	}
	return host
}

// openSSHOptions tell ssh what client.toml says of a server, above all its host
// key: otherwise another program would trust more than the built-in client.
func openSSHOptions(r *route, connect time.Duration) (args []string, err error) {
	o := r.options
	add := func(option, value string) { args = append(args, "-o", option+"="+value) }
	if connect > 0 && r.host.ConnectTimeout == 0 {
		add("ConnectTimeout", fmt.Sprint(int(max(connect, time.Second)/time.Second)))
	}
	if o.IdentityFile != "" {
		add("IdentityFile", sshPath(o.IdentityFile))
		add("IdentitiesOnly", "yes")
	}
	switch {
	case o.HostKey != nil:
		// ssh will see no other file than that of the pin.
		if err := sshclient.CheckPinned(o); err != nil {
			return nil, err
		}
		file, name, err := pin(o.HostKey)
		if err != nil {
			return nil, fmt.Errorf("keep the host key for ssh: %w", err)
		}
		add("UserKnownHostsFile", sshPath(file))
		add("GlobalKnownHostsFile", sshPath(os.DevNull))
		add("HostKeyAlias", name)
		add("StrictHostKeyChecking", "yes")
	case len(o.KnownHosts) > 0 && o.GlobalKnownHosts != nil && len(o.GlobalKnownHosts) == 0:
		add("UserKnownHostsFile", sshPath(o.KnownHosts[0]))
		add("GlobalKnownHostsFile", sshPath(os.DevNull))
	}
	return args, nil
}

// pin writes a host key to a file of known hosts, under a name of its own. The
// file stays: it is the same each time, and ssh may outlive us.
func pin(key ssh.PublicKey) (file, name string, err error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", "", err
	}
	sum := sha256.Sum256(key.Marshal())
	name = "pinned-" + hex.EncodeToString(sum[:8])
	file = filepath.Join(dir, "git-cluster", "known_hosts", name)
	text := name + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + "\n"
	if old, err := os.ReadFile(file); err == nil && string(old) == text {
		return file, name, nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", "", err
	}
	return file, name, durable.WriteFile(file, []byte(text), 0o600)
}

// sshPath quotes a path for an option of ssh, which splits at blanks and expands
// "%".
func sshPath(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(path) + `"`
}

// settle finds out which options the program takes, as Git does: one whose name
// says nothing is asked whether it takes OpenSSH's. OpenSSH is also asked whether
// somebody has set how it finds a server that has vanished: an option would go before
// the files.
func (t *programTransport) settle(ctx context.Context, protocol string) error {
	if t.settled {
		return nil
	}
	if t.variant == "" {
		said, ok, err := t.ask(ctx, protocol, probeTimeout)
		if err != nil {
			return err
		}
		if t.variant = variantSimple; ok {
			t.variant = variantSSH
		}
		if ok && strings.Contains(said, "\nserveraliveinterval ") { // and not just a program with such an option
			if err := t.isOpenSSH(); err != nil {
				return err
			}
		}
		t.keepAlive(said)
	} else if t.openSSH {
		said, _, err := t.ask(ctx, protocol, settingTimeout)
		if err != nil && context.Cause(ctx) != nil {
			return err
		}
		t.keepAlive(said)
	}
	if t.ownUser && t.variant == variantSSH {
		t.aim.user = ""
	}
	t.settled = true
	return nil
}

// errMayAsk: nothing keeps the program from asking a person.
var errMayAsk = errors.New("it may ask somebody something while another does")

// askNobody has the program fail where it would have to ask a person.
func (t *programTransport) askNobody(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.settle(ctx, ""); err != nil {
		return err
	}
	switch {
	case t.openSSH:
		t.aim.extra = append(t.aim.extra, "-o", "BatchMode=yes")
	case t.variant == variantPlink, t.variant == variantPutty:
		t.aim.batch = true
	case t.variant == variantTortoisePlink: // has the option anyway
	case t.person.Reachable():
		return errMayAsk
	}
	return nil
}

// ask has the program print its settings, which connects to nobody.
func (t *programTransport) ask(ctx context.Context, protocol string, limit time.Duration) (settings string, ok bool, err error) {
	args, err := t.aim.arguments(variantSSH, protocol, nil)
	if err != nil {
		return "", false, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out := &head{limit: 64 << 10}
	err = new(gitexec.Runner).Run(ctx, gitcmd.Command{
		Args: t.program.argv(append([]string{"-G"}, args...)...), Env: append(outsideGit(), protocolOf(protocol)...), Foreground: true,
	}, gitexec.IO{Stdout: out, Stderr: io.Discard})
	return string(out.kept), err == nil, context.Cause(ctx)
}

// keepAlive has OpenSSH ask a silent server whether it is there, by default three
// times, unless its settings say how.
func (t *programTransport) keepAlive(settings string) {
	for line := range strings.Lines(settings) {
		if strings.TrimSpace(line) == "serveraliveinterval 0" {
			t.aim.extra = append(t.aim.extra, "-o", fmt.Sprintf("ServerAliveInterval=%d", int(keepAlive/time.Second)))
		}
	}
}

func protocolOf(value string) []string {
	if value == "" {
		return nil
	}
	return []string{"GIT_PROTOCOL=" + value}
}

// outsideGit is the environment without what ties a process to one repository.
func outsideGit() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(localVariables, name)
	})
}

// localVariables are those of `git rev-parse --local-env-vars`.
var localVariables = []string{
	"GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS", "GIT_DIR",
	"GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NO_REPLACE_OBJECTS",
	"GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
}

func (t *programTransport) Shared() bool { return false }

func (t *programTransport) Open(ctx context.Context) (session, error) {
	return &process{transport: t, ctx: ctx}, nil
}

func (t *programTransport) Start(ctx context.Context, command string, env map[string]string, stderr io.Writer) (session, error) {
	p := &process{transport: t, ctx: ctx}
	if err := p.Start(command, env, stderr); err != nil {
		return nil, err
	}
	return p, nil
}

func (t *programTransport) Run(ctx context.Context, command string, env map[string]string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	p := &process{transport: t, ctx: ctx}
	if err := p.Start(command, env, stderr); err != nil {
		return -1, err
	}
	defer p.Close()
	go func() {
		if stdin != nil {
			io.Copy(p, stdin)
		}
		p.CloseWrite()
	}()
	if stdout == nil {
		stdout = io.Discard
	}
	if _, err := io.Copy(stdout, p); err != nil {
		return -1, err
	}
	return p.Wait()
}

func (t *programTransport) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, p := range t.running {
		p.Close()
	}
	return nil
}

// errClosed: the transport was closed before the command was told.
var errClosed = errors.New("the connection is closed")

// A process is a command that an SSH program runs on the server.
type process struct {
	transport *programTransport
	ctx       context.Context

	cancel context.CancelFunc
	in     *os.File // what is written to the command
	out    *os.File // what the command says
	done   chan struct{}
	err    error // how it ended; read after done
}

func (p *process) Start(command string, env map[string]string, stderr io.Writer) (err error) {
	t := p.transport
	if stderr == nil {
		stderr = io.Discard
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errClosed
	}
	protocol := env["GIT_PROTOCOL"]
	if err := t.settle(p.ctx, protocol); err != nil {
		return err
	}
	environ := outsideGit()
	if t.variant == variantSSH { // others do not pass it on
		environ = append(environ, protocolOf(protocol)...)
	}
	var sent []string
	if t.openSSH {
		for name, value := range env {
			if name != "GIT_PROTOCOL" {
				sent, environ = append(sent, name), append(environ, name+"="+value)
			}
		}
		slices.Sort(sent)
	}
	args, err := t.aim.arguments(t.variant, protocol, sent)
	if err != nil {
		return err
	}
	itsIn, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer itsIn.Close()
	out, itsOut, err := os.Pipe()
	if err != nil {
		in.Close()
		return err
	}
	defer itsOut.Close()
	ctx, cancel := context.WithCancel(p.ctx)
	running, err := new(gitexec.Runner).Start(ctx, gitcmd.Command{
		Args: t.program.argv(append(args, command)...), Env: environ, Foreground: true,
	}, gitexec.IO{Stdin: itsIn, Stdout: itsOut, Stderr: stderr})
	if err != nil {
		cancel()
		in.Close()
		out.Close()
		return err
	}
	p.cancel, p.in, p.out, p.done = cancel, in, out, make(chan struct{})
	go func() {
		p.err = running.Wait()
		close(p.done)
	}()
	t.running = append(t.running, p)
	return nil
}

func (p *process) Read(b []byte) (int, error)  { return p.out.Read(b) }
func (p *process) Write(b []byte) (int, error) { return p.in.Write(b) }
func (p *process) CloseWrite() error           { return p.in.Close() }

// errNotConnected is what is known of a program that failed itself. It has told
// the person the rest.
var errNotConnected = errors.New("did not connect, or lost the connection")

// sshFailed is the exit status by which ssh says that it failed itself.
const sshFailed = 255

// Wait returns the exit status of the command, or why there is none.
func (p *process) Wait() (int, error) {
	<-p.done
	var exit *gitexec.ExitError
	switch {
	case p.err == nil:
		return 0, nil
	case context.Cause(p.ctx) != nil:
		return -1, context.Cause(p.ctx)
	case errors.As(p.err, &exit) && exit.Status == sshFailed:
		return -1, fmt.Errorf("%v %w (exit status %d)", p.transport.program, errNotConnected, sshFailed)
	case errors.As(p.err, &exit) && exit.Status > 0:
		return exit.Status, nil
	}
	return -1, p.err
}

// Close ends the program if it still runs.
func (p *process) Close() error {
	if p.cancel != nil {
		p.cancel()
		p.in.Close()
		p.out.Close()
	}
	return nil
}
