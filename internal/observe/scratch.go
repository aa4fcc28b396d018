package observe

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/journal"
)

// A scratch is the folder of one pull from one remote: the files that Git needs
// to get there, and a repository to fetch into. The replica itself is touched only
// by what has been found complete.
type scratch struct {
	*pull
	dir    string
	remote gitcmd.Remote
	hosts  string // the known hosts as they were written
}

func (p *pull) newScratch(n int) (_ *scratch, err error) {
	uri, kind, credential, err := p.remoteOf(n)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(p.Dir, string(p.repo.ID)+"-") // its mode is 0700
	if err != nil {
		return nil, err
	}
	s := &scratch{pull: p, dir: dir, hosts: p.secrets.KnownHosts}
	defer func() {
		if err != nil {
			s.remove()
		}
	}()
	files := map[string]string{"known_hosts": s.hosts}
	if credential != (journal.Credential{}) {
		files["credential"] = file(credential, uri)
	}
	for name, text := range files {
		if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	s.remote = gitcmd.Remote{URI: uri, Identity: identity(kind, s.path("credential"), p.Network.DeviceDir), KnownHosts: s.path("known_hosts"),
		Proxy: p.Network.Proxy, CAInfo: p.Network.CAInfo, Home: dir, ClientConfig: p.Network.ClientConfig}
	return s, nil
}

func (s *scratch) path(name string) string { return filepath.Join(s.dir, name) }

func (s *scratch) remove() {
	if err := os.RemoveAll(s.dir); err != nil {
		s.Log.Warn("remove what a pull left", "error", err)
	}
}

// list asks the remote for its refs.
func (s *scratch) list(ctx context.Context) (*listing, error) {
	command, err := s.remote.ListRefs()
	if err != nil {
		return nil, err
	}
	list := newListing(s.repo.Format, s.repo.Observe.Refs)
	if err := s.git(ctx, command, "", list); list.err != nil || err != nil {
		if list.err != nil {
			err = remoteError{list.err}
		}
		return nil, err
	}
	list.settle()
	return list, nil
}

// fetch fetches refs and returns the values they have on the remote by now.
func (s *scratch) fetch(ctx context.Context, refs []cluster.RefName) (map[cluster.RefName]cluster.OID, error) {
	repo := s.path("repo.git")
	if err := os.RemoveAll(repo); err != nil { // of an attempt before
		return nil, err
	}
	if err := s.Git.Run(ctx, gitcmd.Init(repo, s.repo.Format, "refs/heads/main"), gitexec.IO{}); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(repo, "objects", "info"), 0o700); err != nil {
		return nil, err
	}
	// With the replica's objects as its own, Git asks for what is new only.
	alternates := gitcmd.Alternates(s.Engine.Store.Path(s.repo.ID))
	if err := os.WriteFile(filepath.Join(repo, "objects", "info", "alternates"), []byte(alternates), 0o600); err != nil {
		return nil, err
	}
	command, err := s.remote.Fetch(repo)
	if err != nil {
		return nil, err
	}
	var refspecs strings.Builder
	for _, ref := range refs {
		fmt.Fprintf(&refspecs, "+%s:%s\n", ref, ref)
	}
	if err := s.git(ctx, command, refspecs.String(), nil); err != nil {
		return nil, err
	}
	out, err := s.Git.Output(ctx, gitcmd.ListRefs(repo), nil)
	if err != nil {
		return nil, err
	}
	values := map[cluster.RefName]cluster.OID{}
	for line := range strings.Lines(string(out)) {
		value, ref, _ := strings.Cut(strings.TrimSpace(line), " ")
		values[cluster.RefName(ref)] = cluster.OID(value)
	}
	return values, nil
}

// importInto moves what was fetched into the replica.
func (s *scratch) importInto(ctx context.Context, id cluster.RepoID, updates []cluster.RefUpdate) error {
	packs, err := filepath.Glob(filepath.Join(escapeGlob(s.path("repo.git")), "objects", "pack", "*.pack"))
	if err != nil {
		return err
	}
	switch len(packs) {
	case 0:
		s.debug("no object is new")
		return s.Engine.Import(ctx, id, updates, nil)
	case 1:
	default:
		return fmt.Errorf("git fetch kept %d packs", len(packs))
	}
	pack, err := os.Open(packs[0])
	if err != nil {
		return err
	}
	defer pack.Close()
	info, err := pack.Stat()
	if err != nil {
		return err
	}
	s.debug("importing a pack of %d bytes", info.Size())
	return s.Engine.Import(ctx, id, updates, pack)
}

// escapeGlob keeps a folder's name from being read as a pattern.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// git runs a command that speaks to the remote, until it has been silent for too
// long. Its failure is the remote's.
func (s *scratch) git(ctx context.Context, c gitcmd.Command, stdin string, stdout io.Writer) error {
	s.debug("$ %s", shown(c))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := fmt.Errorf("the remote said nothing for %v", s.silence)
	timer := time.AfterFunc(s.silence, func() { cancel(remoteError{silent}) })
	defer timer.Stop()
	said := &messages{alive: func() { timer.Reset(s.silence) }, line: func(line string) { s.debug("  %s", line) }}
	if stdout == nil {
		stdout = io.Discard
	}
	out := aliveWriter{stdout, said.alive}
	err := s.Git.Run(ctx, c, gitexec.IO{Stdin: strings.NewReader(stdin), Stdout: out, Stderr: said})
	if s.remote.URI.Protocol == gitcmd.SSH {
		s.learnHosts(ctx)
	}
	var exit *gitexec.ExitError
	if errors.As(err, &exit) {
		err = said.failure(s.remote.URI, exit.Status)
	}
	return err
}

// learnHosts keeps the key of a host that ssh met for the first time, so that
// every node will know it.
func (s *scratch) learnHosts(ctx context.Context) {
	const most = 64 << 10
	info, err := os.Stat(s.remote.KnownHosts)
	if err != nil || info.Size() > most {
		return
	}
	text, err := os.ReadFile(s.remote.KnownHosts)
	if err != nil || string(text) == s.hosts {
		return
	}
	s.debug("a host key is new and remembered")
	if err := s.claim.RememberHosts(ctx, s.secrets, string(text)); err != nil {
		s.Log.Warn("a remote's host key is not remembered", "repo", s.repo.Name, "error", err)
		return
	}
	s.hosts = string(text)
	if now, err := s.Journal.Secrets(ctx, s.repo.ID); err == nil {
		s.secrets = now
	}
}

// shown is a command line as a person could type it. It holds no secret: none is
// in a command.
func shown(c gitcmd.Command) string {
	words := make([]string, 0, len(c.Args)+1)
	for _, v := range c.Env {
		if strings.HasPrefix(v, "GIT_SSH_COMMAND=") {
			words = append(words, v)
		}
	}
	return strings.Join(append(words, c.Args...), " ")
}

type aliveWriter struct {
	io.Writer
	alive func()
}

func (w aliveWriter) Write(p []byte) (int, error) {
	w.alive()
	return w.Writer.Write(p)
}

// messages takes what Git says on standard error, line by line.
type messages struct {
	alive func()
	line  func(string)

	mu       sync.Mutex
	rest     []byte
	returned bool // a carriage return came last
	last     []string
}

// Write never fails: what Git says must not end it.
func (m *messages) Write(p []byte) (int, error) {
	m.alive()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range p {
		if m.returned && c != '\n' {
			m.rest = m.rest[:0] // it was progress; ssh ends its lines with both
		}
		m.returned = c == '\r'
		switch {
		case m.returned:
		case c == '\n':
			m.end()
		case len(m.rest) < 1000:
			m.rest = append(m.rest, c)
		}
	}
	return len(p), nil
}

func (m *messages) end() {
	line := strings.TrimSpace(strings.ToValidUTF8(string(m.rest), "�"))
	m.rest = m.rest[:0]
	if line == "" {
		return
	}
	m.line(line)
	if m.last = append(m.last, line); len(m.last) > 20 {
		m.last = m.last[1:]
	}
}

// advice is what Git adds to a failure and that says nothing of it.
var advice = []string{"Please make sure you have", "and the repository exists", "fatal: Could not read from remote repository", "Warning: Permanently added", "@@@@", "warning: "}

// failure makes one line of what Git said at its end.
func (m *messages) failure(uri gitcmd.RemoteURI, status int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.end()
	var telling []string
	all := strings.Join(m.last, "\n")
	for _, line := range m.last {
		said := false
		for _, a := range advice {
			said = said || strings.HasPrefix(line, a)
		}
		if !said {
			telling = append(telling, line)
		}
	}
	if len(telling) == 0 {
		telling = append(m.last, fmt.Sprintf("git ended with status %d", status))
	}
	err := errors.New(strings.Join(telling[max(0, len(telling)-3):], "; "))
	switch {
	case strings.Contains(all, "couldn't find remote ref"):
		return remoteError{fmt.Errorf("%w: %w", errMoved, err)}
	case strings.Contains(all, "HOST IDENTIFICATION HAS CHANGED"):
		err = cluster.WithHint(fmt.Errorf("the host key of %s is not the one it had at first contact", uri.Host),
			"if its operator confirms the new key, give `git cluster repo observe` again, which forgets the old one; else somebody may be listening in between")
	case strings.Contains(all, "Authentication failed"), strings.Contains(all, "could not read Username"), strings.Contains(all, "Permission denied"):
		err = cluster.WithHint(err, "give `git cluster repo observe` again with another --credential")
	}
	return remoteError{err}
}

// clean makes one line of a text that a remote may have had a hand in: without
// what acts on a terminal, and without the credential, should the remote repeat it.
func (p *pull) clean(text string) string {
	for _, c := range p.secrets.Credentials {
		for _, secret := range secretsOf(c) {
			text = strings.ReplaceAll(text, secret, "…")
		}
	}
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) > 1000 {
		text = strings.ToValidUTF8(text[:1000], "") + "…"
	}
	return text
}

// secretsOf are the forms in which a password travels.
func secretsOf(c journal.Credential) []string {
	if c.Password == "" {
		return nil
	}
	return []string{base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password)), c.Password}
}
