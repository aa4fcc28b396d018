package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"gitcluster/internal/clustertest"
	"gitcluster/internal/login"
)

// A front is a way to a repository: a kind of address, or a page that shows its refs.
type front string

const (
	helper  front = "the helper"
	pinned  front = "the helper, one node" // that must serve, or the operation fails
	ssh     front = "ssh"
	sshd    front = "sshd" // OpenSSH's server before the node
	https   front = "https"
	conduit front = "conduit" // for reading branches alone, like the next
	pages   front = "pages"
)

// chooseFront draws one. There may be no sshd on this machine; the node's own server is
// taken then, so that the plan is the same.
func chooseFront(random *rand.Rand, reading, sshds bool) front {
	switch draw := random.IntN(100); {
	case draw < 25:
		return pinned
	case draw < 45:
		return helper
	case draw < 63 || draw < 71 && !sshds:
		return ssh
	case draw < 71:
		return sshd
	case draw < 86 || !reading:
		return https
	case draw < 93:
		return conduit
	}
	return pages
}

// through makes an operation go by a front of a node.
func (k *client) through(o *operation, f front, n *clustertest.Node) {
	o.Front, o.Address = f, "cluster::"+o.Repo
	switch f {
	case pinned:
		o.Pinned = n.Name
	case ssh:
		o.Address = "ssh://" + n.Name + "/" + o.Repo
	case sshd:
		o.Address = "ssh://" + k.sshds[n.Name] + "/" + o.Repo
	case https:
		o.Address = n.URL(o.Repo)
	case conduit:
		o.Address = n.URL("api/diffusion.branchquery")
	case pages:
		o.Address = n.URL(o.Repo + "/-/branches?order=name")
	}
}

// look reads the branches by a front that shows nothing else.
func (k *client) look(o operation) {
	ctx, cancel := context.WithTimeoutCause(k.clients, operationLimit, errors.New("the client gave up"))
	defer cancel()
	o.Start = k.history.now()
	body, err := k.ask(ctx, o)
	var seen map[string]string
	if err == nil {
		seen, err = branchesIn(o.Front, body)
	}
	o.End = k.history.now()
	if err != nil {
		o.Said = err.Error()
	} else {
		o.Outcome, o.Seen, o.Only = done, map[string]string{}, k.branches
		for name, value := range seen {
			o.Seen["refs/heads/"+name] = value
		}
	}
	k.history.add(o)
	if err != nil {
		pause(failurePause)
	}
}

func (k *client) ask(ctx context.Context, o operation) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, o.Address, nil)
	if o.Front == conduit {
		form := url.Values{"api.token": {k.token}, "repository": {o.Repo}, "limit": {"1000"}}
		request, err = http.NewRequestWithContext(ctx, http.MethodPost, o.Address, strings.NewReader(form.Encode()))
	}
	if err != nil {
		return "", err
	}
	if o.Front == conduit {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else {
		request.AddCookie(&http.Cookie{Name: login.CookieName, Value: k.token})
	}
	answer, err := k.browser.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.500s", answer.Status, body)
	}
	return string(body), err
}

// branchesIn finds the branches, by their short names, in an answer.
func branchesIn(f front, body string) (map[string]string, error) {
	seen := map[string]string{}
	if f == pages {
		if !strings.Contains(body, "<h1>Branches</h1>") {
			return nil, fmt.Errorf("this is no page of branches: %.500s", body)
		}
		for _, row := range branchRow.FindAllStringSubmatch(body, -1) {
			seen[html.UnescapeString(row[1])] = row[2]
		}
		return seen, nil
	}
	var a struct {
		Result []struct {
			Name  string `json:"shortName"`
			Value string `json:"commitIdentifier"`
		}
		Code string `json:"error_code"`
		Info string `json:"error_info"`
		Read struct{ Stale, More bool }
	}
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		return nil, fmt.Errorf("%w in %.500s", err, body)
	}
	switch {
	case a.Code != "":
		return nil, fmt.Errorf("%s: %s", a.Code, a.Info)
	case a.Read.Stale || a.Read.More:
		return nil, fmt.Errorf("not what was asked for: %.500s", body)
	}
	for _, b := range a.Result {
		seen[b.Name] = b.Value
	}
	return seen, nil
}

// branchRow is a branch on a page: its name, and the address of its commit.
var branchRow = regexp.MustCompile(`(?s)<tr><th scope="row"><a href="[^"]*">([^<]*)</a>.*?/-/commit/([0-9a-f]{40})"`)
