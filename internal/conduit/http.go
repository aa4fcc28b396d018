package conduit

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/login"
)

// Prefix is the path below which [Conduit.ServeHTTP] answers.
const Prefix = "/api/"

// ServeHTTP answers /api/METHOD, by GET or POST. As in Phabricator the status is
// 200 whether the call succeeded or not; its clients look at error_code. Cookies
// play no part, so that a page of another site cannot call for somebody who is signed in.
func (c *Conduit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff") // a file's contents must not become a page
	h.Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost {
		h.Set("Allow", "GET, HEAD, POST")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	params, token, err := parameters(w, r)
	q := &call{Conduit: c, method: strings.TrimPrefix(r.URL.Path, Prefix), front: "conduit", arguments: arguments{values: params}}
	q.remote, _ = netip.ParseAddrPort(r.RemoteAddr) // the server's own form
	if err == nil {
		q.id, err = c.caller(r, token)
	}
	q.answer(r.Context(), err, func(text []byte, result Result) {
		if result.Read != nil && result.Read.At != nil {
			h.Set("X-Git-Cluster-Version", strconv.FormatUint(uint64(result.Read.Version), 10))
		}
		h.Set("Content-Length", strconv.Itoa(len(text)))
		w.Write(text)
	})
}

// parameters reads the query of a GET or the body of a POST.
func parameters(w http.ResponseWriter, r *http.Request) (params Params, token string, err error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, "", faultf(codeCore, "the query is malformed: %v", err)
	}
	if query.Has("api.token") {
		return nil, "", errTokenInAddress
	}
	if r.Method != http.MethodPost {
		params, token, err = fromForm(query)
		if token != "" {
			return nil, "", errTokenInAddress
		}
		return params, "", err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, "", faultf(codeCore, "the body is larger than %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return nil, "", faultf(codeCore, "the body does not arrive: %v", err)
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case kind == "application/json":
		return fromJSON(body)
	case kind == "application/x-www-form-urlencoded", kind == "" && err != nil && len(body) == 0:
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, "", faultf(codeCore, "the form is malformed: %v", err)
		}
		return fromForm(form)
	}
	return nil, "", faultf(codeCore, "the body's type is %q: use application/x-www-form-urlencoded or application/json", clip(kind))
}

var errTokenInAddress = faultf(codeAuth, "a token in an address ends up in logs: send it in the body of a POST, or in an Authorization header; revoke this one")

// caller says who asks: by the Authorization header or by a token among the
// parameters, but never by both.
func (c *Conduit) caller(r *http.Request, token string) (id cluster.Identity, err error) {
	header := r.Header.Get("Authorization") != ""
	switch {
	case header && token != "":
		return id, faultf(codeAuth, "there is a token among the parameters and an Authorization header: send one of them")
	case header:
		id, err = c.Login.Request(r)
	case token != "":
		id, err = c.Login.Token(r.Context(), login.Remote(r), token)
	}
	switch hint := cluster.Hint(err); {
	case err == nil:
	case errors.Is(err, cluster.ErrUnavailable):
		err = faultf(codeJournal, "%w", err)
	case hint != "":
		err = faultf(codeAuth, "%w: %s", err, hint)
	default:
		err = faultf(codeAuth, "%w", err)
	}
	return id, err
}
