package web

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/login"
)

// sessionTime is how long a browser keeps its cookie. The token behind it may end
// sooner; it is looked at with every request.
const sessionTime = 14 * 24 * time.Hour

// maxForm bounds a posted form: a token and an address.
const maxForm = 8 << 10

// identify says who looks. A cookie that is worth nothing any more is taken back,
// and its browser is a stranger's.
func (a *asked) identify() cluster.Identity {
	id, err := a.Login.Cookie(a.r)
	if err == nil {
		return id
	}
	if errors.Is(err, login.ErrBad) {
		a.setCookie("", -1)
	}
	return cluster.Identity{}
}

// setCookie keeps a token in the browser. Lax, not Strict: nothing here is changed
// by following a link, and a link in a mail should open a private page.
func (a *asked) setCookie(token string, seconds int) {
	http.SetCookie(a.w, &http.Cookie{Name: login.CookieName, Value: token, Path: "/", MaxAge: seconds,
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// A signIn is the form.
type signIn struct {
	To      string // where to go then
	Problem string
}

func (a *asked) signInPage(problem string, status int) *page {
	return &page{template: "signin", status: status, Title: "Sign in", Body: signIn{To: local(a.r.FormValue("to")), Problem: problem}}
}

// signInLink leads to the form and back to where the visitor is.
func (a *asked) signInLink() string {
	to := a.r.URL.RequestURI()
	if a.r.Method == http.MethodPost || strings.HasPrefix(a.r.URL.Path, signInPath) || local(to) != to {
		return signInPath
	}
	return signInPath + "?" + url.Values{"to": {to}}.Encode()
}

// post signs in or out. A form of another site must do neither: to be signed in as
// somebody else, unnoticed, is an attack as well.
func (a *asked) post(path string) {
	if err := a.crossSite.Check(a.r); err != nil {
		a.Log.Warn("a form of another site", "path", path, "remote", a.remote.String(), "origin", a.r.Header.Get("Origin"))
		a.fail(http.StatusForbidden, "This form came from another site", "Sign in and out on this site's own pages.")
		return
	}
	a.r.Body = http.MaxBytesReader(a.w, a.r.Body, maxForm)
	if err := a.r.ParseForm(); err != nil {
		a.fail(http.StatusBadRequest, "The form could not be read", "It is larger than any sign-in, or not a form.")
		return
	}
	if path == signOutPath {
		a.setCookie("", -1)
		// Pages kept by the browser must not be shown to the next person at it.
		a.w.Header().Set("Clear-Site-Data", `"cache"`)
		a.redirect(http.StatusSeeOther, "/")
		return
	}
	token := strings.TrimSpace(a.r.PostForm.Get("token"))
	id, err := a.Login.Token(a.r.Context(), login.Remote(a.r), token)
	switch {
	case err == nil && id.User == "":
		a.show(a.signInPage("That is a device's token. These pages are for people: use an access token of your own.", http.StatusForbidden))
	case err == nil:
		a.setCookie(token, int(sessionTime.Seconds()))
		a.redirect(http.StatusSeeOther, local(a.r.PostForm.Get("to")))
	case errors.Is(err, login.ErrTooMany):
		a.w.Header().Set("Retry-After", "60")
		a.show(a.signInPage("Too many wrong tokens came from your address. Wait a minute.", http.StatusTooManyRequests))
	case errors.Is(err, login.ErrBad):
		a.show(a.signInPage("That token is not valid: it is wrong, expired or revoked.", http.StatusForbidden))
	default:
		a.explain(err)
	}
}
