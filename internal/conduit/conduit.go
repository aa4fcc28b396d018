// Package conduit answers Phabricator's Conduit API: methods with a name and
// parameters, answered in JSON, over HTTP (/api/METHOD) and over SSH (`conduit
// METHOD`). docs/conduit.md describes each method.
//
// Entry points: [New]; [Conduit.ServeHTTP] and [Conduit.ServeCommand] are the two
// ways in.
//
// It promises that both ways give the same answer to the same call; that a
// repository is brought up to date before it is read, unless the caller says
// staleOK, and that the answer names the version that was read; that every list,
// walk and text is bounded; and that a repository which the caller may not read
// looks like one that is not there.
package conduit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/access"
	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/journal"
	"gitcluster/internal/queue"
	"gitcluster/internal/service"
)

// Repositories is what this package asks of [service.Service].
type Repositories interface {
	Read(ctx context.Context, q *service.Request, what string, do func(context.Context, engine.View) error) error
	Resolve(ctx context.Context, id cluster.Identity, name cluster.RepoName, role cluster.Role) (engine.Resolved, error)
	Repos(ctx context.Context, id cluster.Identity, after cluster.RepoName, limit int) (repos []journal.RepoHead, next cluster.RepoName, err error)
	Remembered(id cluster.Identity, after cluster.RepoName) []cluster.Repo
	NameOf(ctx context.Context, id cluster.RepoID, f cluster.Freshness) (cluster.RepoName, error)
}

// A Login is what this package asks of [login.Login].
type Login interface {
	Request(r *http.Request) (cluster.Identity, error)
	Token(ctx context.Context, remote netip.Addr, token string) (cluster.Identity, error)
}

// Options are what a Conduit works with.
type Options struct {
	Repositories Repositories
	Browser      *browse.Browser
	Login        Login
	Rules        func() *access.Directory
	Device       cluster.DeviceName // this node
	Log          *slog.Logger
}

// A Conduit answers calls. It is safe for concurrent use.
type Conduit struct {
	Options
	methods map[string]method
	maxTime time.Duration // how long a call may read once the repository is up to date
	answers *queue.Budget // bytes of answers that callers have not taken yet
}

// Bounds of what is held for callers: one that takes nothing keeps an answer in memory
// until its time is over.
const (
	maxAnswers    = 256 << 20
	maxAnswersOne = 64 << 20 // of one caller; a single answer may be larger
	smallAnswer   = 4 << 10  // is not counted
)

// New returns a Conduit.
func New(o Options) *Conduit {
	c := &Conduit{Options: o, methods: map[string]method{}, maxTime: 30 * time.Second, answers: queue.NewBudget(maxAnswers, maxAnswersOne)}
	for _, some := range []map[string]method{aboutMethods, repositoryMethods, refMethods, fileMethods, commitMethods, diffMethods} {
		maps.Copy(c.methods, some)
	}
	return c
}

// A Result answers a call, in Phabricator's form: with an error the result is
// null, without one the error's code and text are.
type Result struct {
	Value any     `json:"result"`
	Code  *string `json:"error_code"`
	Info  *string `json:"error_info"`
	// Read stands beside the result, where clients that do not know it do not look.
	Read *Read `json:"read,omitempty"`
}

// A Read says what an answer was read from.
type Read struct {
	*At                      // nil for a list of repositories
	Node  cluster.DeviceName `json:"node"`
	Stale bool               `json:"stale"` // it was not compared with the journal
	More  bool               `json:"more"`  // a limit left something out of the result
}

// An At is a repository at one moment.
type At struct {
	Repository cluster.RepoName `json:"repository"`
	Epoch      cluster.Epoch    `json:"epoch"`
	Version    cluster.Version  `json:"version"`
}

// A method is one entry of the API. Parameters and results are described in the
// words of Phabricator's own descriptions: "optional int", "list<dict>".
type method struct {
	about  string
	params map[string]string
	gives  string
	run    func(ctx context.Context, q *call) (any, error)
}

// A call is one call in progress.
type call struct {
	*Conduit
	arguments
	method string
	id     cluster.Identity
	front  string         // by which it came
	remote netip.AddrPort // from where
	tell   func(string)   // lines for a person who waits; may be nil

	clock  *time.Timer // ends the call when it has read for maxTime; open starts it
	read   *Read
	out    bytes.Buffer // the answer, if open has written it
	logged bool         // by the service
}

// run runs the call's method. What goes wrong is in the Result.
func (q *call) run(ctx context.Context) Result {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	q.clock = time.AfterFunc(q.maxTime, func() { cancel(browse.ErrTooLong) })
	q.clock.Stop()
	defer q.clock.Stop()
	m, ok := q.methods[q.method]
	if !ok {
		return q.failed(faultf(codeCall, "there is no method %q; conduit.query lists those there are", clip(q.method)))
	}
	if err := m.check(q.method, q.values); err != nil {
		return q.failed(err)
	}
	value, err := m.run(ctx, q)
	if err == nil {
		err = q.err
	}
	if err != nil {
		return q.failed(err)
	}
	return Result{Value: value, Read: q.read}
}

// check refuses parameters that the method does not have: a misspelled
// constraint would otherwise answer another question than the one asked.
func (m method) check(name string, params Params) error {
	var unknown []string
	for p := range params {
		if _, ok := m.params[p]; !ok {
			unknown = append(unknown, clip(p))
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	return faultf(codeCall, "%s has no parameter %q", name, strings.Join(unknown[:min(len(unknown), 10)], `", "`))
}

// The error codes. Those of the first group are Phabricator's.
const (
	codeAuth       = "ERR-INVALID-AUTH"
	codeCall       = "ERR-CONDUIT-CALL" // no such method or parameter
	codeCore       = "ERR-CONDUIT-CORE" // whatever has no other code
	codeParameter  = "ERR-INVALID-PARAMETER"
	codeRepository = "ERR-UNKNOWN-REPOSITORY"
	codeQueryKey   = "ERR-BAD-QUERYKEY"
	codeConstraint = "ERR-INVALID-CONSTRAINT"
	codeAttachment = "ERR-INVALID-ATTACHMENT"
	codePageSize   = "ERR-INVALID-PAGE-SIZE"

	codeCommit  = "ERR-UNKNOWN-COMMIT"
	codePath    = "ERR-UNKNOWN-PATH"
	codeJournal = "ERR-JOURNAL-UNAVAILABLE" // nobody can say what is current
	codeReplica = "ERR-REPLICA-UNAVAILABLE" // this node cannot; another may
	codeBusy    = "ERR-BUSY"
	codeTime    = "ERR-TIME-LIMIT"
)

// A fault is an error with a code, in words that the caller may see.
type fault struct {
	code string
	err  error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

func faultf(code, format string, a ...any) error {
	return &fault{code, fmt.Errorf(format, a...)}
}

// staleHint is for somebody whom a node without the journal refuses.
const staleHint = `; to read what this node has, add "staleOK": true`

// failed turns an error into a Result. What an error of the system says may name
// paths and commands of this machine: it goes to the log.
func (q *call) failed(err error) Result {
	code, info := codeCore, "the node could not answer; its log says why"
	var f *fault
	switch {
	case errors.As(err, &f):
		code, info = f.code, f.Error()
	case errors.Is(err, cluster.ErrUnavailable):
		code, info = codeJournal, err.Error()+staleHint
	case errors.Is(err, cluster.ErrNoReplica), errors.Is(err, cluster.ErrFenced), errors.Is(err, cluster.ErrStopping):
		code, info = codeReplica, err.Error()
	case errors.Is(err, cluster.ErrBusy):
		code, info = codeBusy, err.Error()
	case errors.Is(err, browse.ErrTooLong):
		code, info = codeTime, "the answer takes longer to find than a call may last; ask for less"
	case errors.Is(err, browse.ErrBadQuery):
		code, info = codeParameter, err.Error()
	case errors.Is(err, cluster.ErrNotFound): // in a repository that the caller may read
		code, info = codePath, err.Error()
	case errors.Is(err, context.Canceled):
		info = "the caller went away"
	default:
		q.Log.Error("conduit call failed", "method", q.method, "error", err)
	}
	return Result{Code: &code, Info: &info}
}

// answer runs a call, unless bad says why there is none, and has send write the JSON of
// its result with a line feed. Whatever it was, the log has one line of it.
func (q *call) answer(ctx context.Context, bad error, send func([]byte, Result)) {
	text, r := q.reply(ctx, bad)
	if len(text) > smallAnswer {
		give, ok := q.answers.Take(service.Holder(q.id, q.remote), len(text))
		if !ok {
			r = q.failed(fmt.Errorf("too many answers wait to be taken: %w", cluster.ErrBusy))
			text = q.encode(r)
		} else {
			defer give()
		}
	}
	send(text, r)
}

// reply is answer without the sending.
func (q *call) reply(ctx context.Context, bad error) ([]byte, Result) {
	start := time.Now()
	var r Result
	if bad != nil {
		r = q.failed(bad)
	} else {
		r = q.run(ctx)
	}
	if r.Code != nil || q.out.Len() == 0 {
		q.out.Reset()
		if err := json.NewEncoder(&q.out).Encode(r); err != nil {
			r = q.failed(err)
			q.encode(r)
		}
	}
	if !q.logged {
		method := q.method
		if _, ok := q.methods[method]; !ok {
			method = "unknown" // a stranger's text, of which there is no end
		}
		log := q.Log.With("service", method, "front", q.front, "identity", q.id.String())
		if r.Code != nil {
			log = log.With("error_code", *r.Code, "error", *r.Info)
		}
		log.Info("request", "took", time.Since(start).Round(time.Microsecond), "bytes_out", q.out.Len())
	}
	return q.out.Bytes(), r
}

// encode makes the answer of a failure: two strings, which always have a form in JSON.
func (q *call) encode(r Result) []byte {
	q.out = bytes.Buffer{} // what was in it may be large
	json.NewEncoder(&q.out).Encode(r)
	return q.out.Bytes()
}

// clip keeps a stranger's text from filling an answer or a log.
func clip(s string) string {
	if len(s) > 80 {
		return s[:77] + "..."
	}
	return s
}
