// Package web is a node's pages: the repositories for people who look at them
// with a browser, and the state of the cluster.
//
// Entry point: [New] gives the handler.
//
// It promises that a repository page synchronizes first, like every read, and says so where
// it could not; that somebody who may not read a repository gets the very answer
// that a missing one gives; that whatever a repository contains, names
// included, is shown as text and runs nowhere; that a page needs no script, no
// other host and no more than a bounded part of a repository.
package web

import (
	"bytes"
	"context"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"gitcluster/internal/admin"
	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/journal"
	"gitcluster/internal/queue"
	"gitcluster/internal/service"
)

// Repositories is what the pages need of [service.Service].
type Repositories interface {
	Read(ctx context.Context, q *service.Request, what string, do func(context.Context, engine.View) error) error
	Repos(ctx context.Context, id cluster.Identity, after cluster.RepoName, limit int) ([]journal.RepoHead, cluster.RepoName, error)
	PushLog(ctx context.Context, id cluster.Identity, name cluster.RepoName, before cluster.Version, limit int) ([]service.PushRecord, cluster.Version, error)
}

// Login says who somebody is.
type Login interface {
	// Cookie returns whom the cookie [SessionCookie] of a request stands for: the zero
	// Identity if there is none, an error if it is no longer worth anything.
	Cookie(r *http.Request) (cluster.Identity, error)
	// Token returns whose an access token is.
	Token(ctx context.Context, remote netip.Addr, token string) (cluster.Identity, error)
}

// Status is what the cluster page needs of [admin.Server].
type Status interface {
	Overview(ctx context.Context, id cluster.Identity, after cluster.RepoName, limit int) (admin.Overview, error)
}

// Options are what the pages work with.
type Options struct {
	Cluster      string // its name
	Device       cluster.DeviceName
	SSH, HTTP    string // host:port at which clients reach this node; "" where they cannot
	Repositories Repositories
	Browser      *browse.Browser
	Login        Login
	Status       Status
	Log          *slog.Logger
}

// pageTime bounds the making of a page, however long its repository's history.
const pageTime = 20 * time.Second

// site is the handler.
type site struct {
	Options
	templates map[string]*template.Template
	static    static
	crossSite *http.CrossOriginProtection
	pushes    pushCache
	refLists  refCache
	slow      slots // bounds what may not be interrupted: highlighting, Markdown
	live      audience
	answers   *queue.Budget // bytes of answers that visitors have not taken yet

	markdownTime, colourTime time.Duration // how long a text may take; then it is shown plain
}

// Bounds of what is held for visitors. One that takes nothing keeps a page in memory until its
// time is over, and has as many connections as it likes.
const (
	mostPage       = 32 << 20 // bytes of a page
	mostAnswers    = 256 << 20
	mostAnswersOne = 64 << 20 // of one visitor
	smallAnswer    = 16 << 10 // is not counted, as the page that says that there is no room
)

// errTooLarge: a page is larger than mostPage.
var errTooLarge = errors.New("the page is too large")

// New returns the handler of all pages.
func New(o Options) http.Handler {
	s := &site{Options: o, crossSite: http.NewCrossOriginProtection(), slow: make(slots, 4), answers: queue.NewBudget(mostAnswers, mostAnswersOne),
		markdownTime: 2 * time.Second, colourTime: time.Second}
	s.static = loadStatic()
	s.templates = loadTemplates(s.static.url)
	return s
}

// An asked is one request on its way to a page.
type asked struct {
	*site
	w      http.ResponseWriter
	r      *http.Request
	id     cluster.Identity
	remote netip.AddrPort
	whole  context.Context // the request's, without the bound of a page
}

// ServeHTTP answers one request.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	protect(w.Header())
	a := &asked{site: s, w: w, r: r, whole: r.Context()}
	a.remote, _ = netip.ParseAddrPort(r.RemoteAddr)
	path := r.URL.Path
	if file, ok := strings.CutPrefix(path, staticPrefix); ok {
		s.static.serve(w, r, file)
		return
	}
	a.id = a.identify()
	if r.Method == http.MethodPost && (path == signInPath || path == signOutPath) {
		a.post(path)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		a.fail(http.StatusMethodNotAllowed, "This page can only be looked at", "Its address takes no other request.")
		return
	}
	if path == eventsPath {
		a.events() // lasts longer than a page may
		return
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), pageTime, browse.ErrTooLong)
	defer cancel()
	a.r = r.WithContext(ctx)
	var p *page
	var err error
	switch path {
	case "/":
		p, err = a.repositories(ctx)
	case clusterPath:
		p, err = a.clusterPage(ctx)
	case signInPath:
		p = a.signInPage("", http.StatusOK)
	default:
		err = a.repository(ctx, path)
	}
	if err != nil {
		a.explain(err)
	} else if p != nil {
		a.show(p)
	}
}

// protect sets what holds for every answer. The policy forbids every script,
// style, frame and connection that is not this node's own, so that text which slipped
// through as markup still could do nothing.
func protect(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "+
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin") // a private repository's name is nobody else's business
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	// What one person may see must not be kept for another, nor shown after a push
	// without asking.
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Vary", "Cookie")
}

// A page is what a template gets.
type page struct {
	template string
	status   int // 0: OK
	Title    string
	Body     any
	Repo     *header // of the repository that the page is about
	Live     bool    // it changes while it is looked at

	Cluster string
	Device  cluster.DeviceName
	User    string // who is signed in
	SignIn  string // where to, and back
	Path    string
}

func (a *asked) render(p *page) ([]byte, error) {
	p.Cluster, p.Device, p.Path = a.Cluster, a.Device, a.r.URL.Path
	if a.id != (cluster.Identity{}) {
		p.User = a.id.String()
	}
	p.SignIn = a.signInLink()
	var b pageBuffer
	err := a.templates[p.template].ExecuteTemplate(&b, "page", p)
	return b.Bytes(), err
}

// A pageBuffer takes a page, unless it is too large.
type pageBuffer struct{ bytes.Buffer }

func (b *pageBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > mostPage {
		return 0, errTooLarge
	}
	return b.Buffer.Write(p)
}

// WriteString is Write; the buffer's own would know no bound.
func (b *pageBuffer) WriteString(s string) (int, error) { return b.Write([]byte(s)) }

func (a *asked) show(p *page) {
	body, err := a.render(p)
	if err != nil {
		a.Log.Error("render a page", "template", p.template, "error", err)
		http.Error(a.w, "this page could not be made", http.StatusInternalServerError)
		return
	}
	a.write(p.status, body)
}

func (a *asked) write(status int, body []byte) {
	h := a.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	give, ok := a.hold(len(body))
	if !ok {
		h.Del("Content-Length")
		a.explain(cluster.ErrBusy)
		return
	}
	defer give()
	if status != 0 {
		a.w.WriteHeader(status)
	}
	a.w.Write(body)
}

// hold makes sure that there is room for an answer until it is taken.
func (a *asked) hold(bytes int) (give func(), ok bool) {
	if bytes <= smallAnswer {
		return func() {}, true
	}
	return a.answers.Take(service.Holder(a.id, a.remote), bytes)
}

// A problem is what the page of an error says.
type problem struct {
	Status int
	What   string
	Why    string
	Stale  string // an address that shows what this node has
}

func (a *asked) fail(status int, what, why string) {
	a.show(&page{template: "problem", status: status, Title: what, Body: problem{Status: status, What: what, Why: why}})
}

// explain answers with an error's page. What may not be seen and what is not there
// are one and the same, and so is a name that cannot be one.
func (a *asked) explain(err error) {
	switch {
	case a.whole.Err() != nil && !errors.Is(context.Cause(a.whole), cluster.ErrStopping):
		return // nobody waits for an answer
	case errors.Is(err, cluster.ErrNotFound), errors.Is(err, cluster.ErrDenied), errors.Is(err, cluster.ErrBadRepoName), errors.Is(err, browse.ErrBadQuery):
		a.fail(http.StatusNotFound, "Not found", "There is nothing at this address, or nothing that you may see.")
		return
	}
	b := problem{Status: http.StatusServiceUnavailable}
	switch {
	case errors.Is(err, cluster.ErrUnavailable), errors.Is(err, cluster.ErrNoReplica):
		b.What = "This node cannot tell whether it is current"
		b.Why = "The journal, or every node that has the newest objects, is out of reach. A page that might be outdated is only shown to those who ask for it."
		if !strings.HasPrefix(a.r.URL.Path, "/-/") && a.r.URL.Path != "/" && a.r.FormValue("stale") == "" {
			q := a.r.URL.Query()
			q.Set("stale", "1")
			b.Stale = escapePath(a.r.URL.Path) + "?" + q.Encode()
		}
	case errors.Is(err, cluster.ErrFenced):
		b.What = "This node's replica is set aside"
		b.Why = "Its disk contradicts the journal. Other nodes serve the repository."
	case errors.Is(err, cluster.ErrBusy):
		b.What = "This node is busy"
		b.Why = "Please try again in a moment, or use another node."
	case errors.Is(err, cluster.ErrStopping):
		b.What = "This node is stopping"
		b.Why = "Please use another node."
	case errors.Is(err, errTooLarge):
		b.What = "This page would be too large"
		b.Why = "A smaller part of the repository may do, or a clone."
	case errors.Is(err, browse.ErrTooLong), errors.Is(err, context.DeadlineExceeded):
		b.What = "This takes too long"
		b.Why = "The node gave up making this page. A smaller part of the repository may do."
	default:
		b.Status, b.What, b.Why = http.StatusInternalServerError, "This page could not be made", "The node's log says why."
		a.Log.Error("page", "path", a.r.URL.Path, "identity", a.id.String(), "error", err)
	}
	if b.Status == http.StatusServiceUnavailable {
		a.w.Header().Set("Retry-After", "5")
	}
	a.show(&page{template: "problem", status: b.Status, Title: b.What, Body: b})
}
