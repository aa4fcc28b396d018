package httpserver

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/credential"
	"gitcluster/internal/engine"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/login"
	"gitcluster/internal/service"
)

// The endings of Git's addresses (gitprotocol-http(5)). What precedes them is the
// repository's name.
const (
	refsPath    = "/info/refs"
	uploadPack  = "git-upload-pack"
	receivePack = "git-receive-pack"
)

func isGit(path string) bool {
	return strings.HasSuffix(path, refsPath) || strings.HasSuffix(path, "/"+uploadPack) || strings.HasSuffix(path, "/"+receivePack)
}

// maxFetch bounds what a client may say it wants and has, uncompressed: two
// million objects.
const maxFetch = 128 << 20

// serveGit serves the requests of a fetch or a push.
func (s *Server) serveGit(x *exchange, r *http.Request) {
	noCache(x.Header())
	id, err := s.opts.Login.Request(r)
	if err != nil {
		s.refuse(x, r, id, err)
		return
	}
	q := service.Request{Identity: id, Front: "http", Stateless: true}
	q.Remote, _ = netip.ParseAddrPort(r.RemoteAddr)
	path, wanted := "", ""
	if name, ok := strings.CutSuffix(r.URL.Path, refsPath); ok {
		path, wanted = name, r.URL.Query().Get("service")
		if r.Method != http.MethodGet {
			notAllowed(x, http.MethodGet)
			return
		}
		if wanted != uploadPack && wanted != receivePack {
			answer(x, http.StatusForbidden, "this server speaks Git's smart HTTP protocol only, for git-upload-pack and git-receive-pack", "use Git 1.6.6 or newer")
			return
		}
		if r.ContentLength != 0 {
			answer(x, http.StatusBadRequest, "a request for refs has no body")
			return
		}
	} else {
		path, wanted = cutService(r.URL.Path)
		if r.Method != http.MethodPost {
			notAllowed(x, http.MethodPost)
			return
		}
		// Git may answer before it has read everything, and so may a refusal;
		// without this net/http would read the rest into nowhere first.
		x.control.EnableFullDuplex()
		if got := r.Header.Get("Content-Type"); got != "application/x-"+wanted+"-request" {
			answer(x, http.StatusUnsupportedMediaType, fmt.Sprintf("the content type must be application/x-%s-request", wanted))
			return
		}
	}
	if q.Repo, err = cluster.ParseRepoName(path); err != nil {
		s.refuse(x, r, id, err)
		return
	}
	if wanted == uploadPack { // there is no version 2 of pushing, and Git lists refs as before
		q.Protocol = protocol(r.Header.Values("Git-Protocol"))
	}
	if r.Method == http.MethodGet {
		s.serveRefs(x, r, q, wanted)
	} else {
		s.serveRPC(x, r, q, wanted)
	}
}

func (s *Server) serveRefs(x *exchange, r *http.Request, q service.Request, wanted string) {
	out := &gitAnswer{x: x, contentType: "application/x-" + wanted + "-advertisement"}
	if q.Protocol != "version=2" {
		out.prefix = pktLine("# service="+wanted+"\n") + "0000"
	}
	q.Stdout = out
	err := s.opts.Service.AdvertiseRefs(r.Context(), q, wanted == receivePack)
	switch {
	case err == nil:
		out.begin()
	case out.begun:
		panic(http.ErrAbortHandler)
	default:
		s.refuse(x, r, q.Identity, err)
	}
}

func (s *Server) serveRPC(x *exchange, r *http.Request, q service.Request, wanted string) {
	push := wanted == receivePack
	s.downgrades.probe(x, r)
	if push && r.ContentLength == probeSize {
		s.serveProbe(x, r, q)
		return
	}
	q.Stdin = r.Body
	switch r.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip", "x-gzip":
		q.Stdin = &inflater{from: r.Body}
	default:
		answer(x, http.StatusUnsupportedMediaType, "the content encoding must be gzip, if any")
		return
	}
	out := &gitAnswer{x: x, contentType: "application/x-" + wanted + "-result"}
	q.Stdout = out
	var err error
	if push {
		x.body.wait(s.limits.PushStall)
		err = s.opts.Service.ReceivePack(r.Context(), q)
	} else {
		in := bufio.NewReaderSize(&bounded{q.Stdin, maxFetch}, fetchAhead)
		q.Stdin, q.Await = in, func() error {
			if _, err := in.Peek(fetchAhead); err != nil && err != io.EOF {
				return fmt.Errorf("%w: %w", errBody, err)
			}
			return nil
		}
		err = s.opts.Service.UploadPack(r.Context(), q)
	}
	var exit *gitexec.ExitError
	failed := errors.As(err, &exit) && exit.Status > 0
	unclear := errors.Is(err, engine.ErrUnclear) || errors.Is(err, cluster.ErrStopping) || unknown(err) && !failed
	switch {
	case err == nil:
		out.begin()
	case out.begun && failed && !push:
		// Git has said in its own protocol what is wrong.
	case out.begun, push && unclear:
		// Nobody knows what became of a push: the answer breaks off. It has to
		// begin for that, since clients send a request again by themselves if a connection
		// ends without one, and the second answer could be a refusal of what the first has done.
		out.begin()
		panic(http.ErrAbortHandler)
	default:
		s.refuse(x, r, q.Identity, err)
	}
}

// fetchAhead is how much of a request for objects must have come, or all of it if it
// is shorter, before Git is started. Nearly all are, so that a client which is slow to say what it
// wants keeps nobody waiting.
const fetchAhead = 64 << 10

// errBody: the body of a request did not come, or cannot be read.
var errBody = errors.New("the body of the request")

// flush is what Git sends to learn whether it is let in, before it
// sends what it could not send twice.
const flush = "0000"

// serveProbe answers such a question, for a repository that does not exist yet
// without making it.
func (s *Server) serveProbe(x *exchange, r *http.Request, q service.Request) {
	if _, err := s.opts.Service.Sync(r.Context(), q.Identity, q.Repo, true, nil); err != nil {
		s.refuse(x, r, q.Identity, err)
		return
	}
	said := make([]byte, len(flush))
	if _, err := io.ReadFull(r.Body, said); err != nil || string(said) != flush {
		answer(x, http.StatusBadRequest, "a push of four bytes is no push")
		return
	}
	(&gitAnswer{x: x, contentType: "application/x-git-receive-pack-result"}).begin()
}

// A gitAnswer is what Git writes. It begins with Git's first byte: until then it
// can still become a refusal.
type gitAnswer struct {
	x           *exchange
	contentType string
	prefix      string
	begun       bool
}

func (a *gitAnswer) begin() error {
	if a.begun {
		return nil
	}
	a.begun = true
	a.x.Header().Set("Content-Type", a.contentType)
	a.x.WriteHeader(http.StatusOK)
	if _, err := io.WriteString(a.x, a.prefix); err != nil {
		return err
	}
	return a.x.FlushError()
}

func (a *gitAnswer) Write(p []byte) (int, error) {
	if err := a.begin(); err != nil {
		return 0, err
	}
	n, err := a.x.Write(p)
	if err == nil {
		err = a.x.FlushError()
	}
	return n, err
}

// refuse answers with an error. Whoever has not said who they are is asked to,
// whatever there is: a private repository, a missing one, or a public one that they may not change.
func (s *Server) refuse(x *exchange, r *http.Request, id cluster.Identity, err error) {
	anonymous := id == (cluster.Identity{})
	switch {
	case errors.Is(err, login.ErrBad), anonymous && (errors.Is(err, cluster.ErrNotFound) || errors.Is(err, cluster.ErrDenied)):
		x.Header().Add("WWW-Authenticate", `Basic realm="git-cluster", charset="UTF-8"`)
		x.Header().Add("WWW-Authenticate", credential.Scheme+` realm="git-cluster"`)
		said := "there is nothing here for who has not signed in"
		if errors.Is(err, login.ErrBad) {
			said = err.Error()
		}
		answer(x, http.StatusUnauthorized, said, cluster.Hint(login.ErrBad))
	case errors.Is(err, login.ErrTooMany):
		x.Header().Set("Retry-After", strconv.Itoa(int(login.RetryAfter.Seconds())))
		answer(x, http.StatusTooManyRequests, err.Error(), cluster.Hint(err))
	case errors.Is(err, cluster.ErrNotFound), errors.Is(err, cluster.ErrBadRepoName):
		answer(x, http.StatusNotFound, err.Error(), cluster.Hint(err))
	case errors.Is(err, cluster.ErrDenied):
		answer(x, http.StatusForbidden, err.Error(), cluster.Hint(err))
	case errors.Is(err, cluster.ErrExists):
		answer(x, http.StatusConflict, err.Error(), cluster.Hint(err))
	case errors.Is(err, errBody):
		answer(x, http.StatusBadRequest, "the body of the request is broken, or took too long")
	case !unknown(err):
		x.Header().Set("Retry-After", "5")
		answer(x, http.StatusServiceUnavailable, err.Error(), cluster.Hint(err))
	case r.Context().Err() != nil && !errors.Is(context.Cause(r.Context()), cluster.ErrStopping):
		panic(http.ErrAbortHandler) // there is nobody to answer
	default:
		answer(x, http.StatusInternalServerError, "internal error; the node's log has the details")
	}
}

// unknown reports whether an error is none of those by which a node says why it
// cannot serve.
func unknown(err error) bool {
	for _, known := range []error{cluster.ErrUnavailable, cluster.ErrNoReplica, cluster.ErrFenced, cluster.ErrBehind, cluster.ErrBusy,
		cluster.ErrDraining, cluster.ErrLocked, cluster.ErrStopping,
		cluster.ErrNotFound, cluster.ErrDenied, cluster.ErrExists, cluster.ErrBadRepoName} {
		if errors.Is(err, known) {
			return false
		}
	}
	return true
}

// answer sends lines for people, the way Git shows them: "remote: # …".
func answer(w http.ResponseWriter, status int, fact string, hints ...string) {
	text := "# " + fact + "\n"
	for _, hint := range hints {
		if hint != "" {
			text += "# hint: " + hint + "\n"
		}
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	io.WriteString(w, text) // a client that is gone is no matter
}

func notAllowed(w http.ResponseWriter, allowed string) {
	w.Header().Set("Allow", allowed)
	answer(w, http.StatusMethodNotAllowed, "the method must be "+allowed)
}

// noCache keeps what is true only now from being served by a cache later; the
// date is Git's.
func noCache(h http.Header) {
	h.Set("Expires", "Fri, 01 Jan 1980 00:00:00 GMT")
	h.Set("Pragma", "no-cache")
	h.Set("Cache-Control", "no-cache, max-age=0, must-revalidate")
}

func cutService(path string) (name, wanted string) {
	i := strings.LastIndexByte(path, '/')
	return path[:i], path[i+1:]
}

// protocol is the version of Git's protocol that a client asks for, as
// GIT_PROTOCOL: the highest that it names. It names others besides, separated by
// colons, which are nothing that a stranger should put into an environment.
func protocol(headers []string) string {
	version := ""
	for _, h := range headers {
		for word := range strings.SplitSeq(h, ":") {
			if word == "version=2" || word == "version=1" && version == "" {
				version = word
			}
		}
	}
	return version
}

// pktLine is a line of Git's protocol (gitprotocol-common(5)).
func pktLine(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }

// An inflater uncompresses from its first read on: before that, nobody has
// decided that the body shall be read.
type inflater struct {
	from io.Reader
	gz   *gzip.Reader
}

func (i *inflater) Read(p []byte) (int, error) {
	if i.gz == nil {
		gz, err := gzip.NewReader(i.from)
		if err != nil {
			return 0, err
		}
		i.gz = gz
	}
	return i.gz.Read(p)
}

// bounded fails after so many bytes.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("the request is too long")
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
