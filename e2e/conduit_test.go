package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// An answer is what Conduit answers.
type answer struct {
	Result json.RawMessage `json:"result"`
	Code   string          `json:"error_code"`
	Info   string          `json:"error_info"`
	Read   struct {
		Repository, Node string
		Version          int
		Stale            bool
	} `json:"read"`
	raw  string
	took time.Duration
}

// A caller calls a method at a node. It may be used by several goroutines.
type caller func(node, method, params string) answer

// callers are the two ways to call a node: as Phabricator's clients do over HTTP, and
// over SSH with OpenSSH.
func callers(t *testing.T, c *clustertest.Cluster, u *clustertest.User) map[string]caller {
	client, token := c.HTTPClient(t), u.Token(t)
	return map[string]caller{
		"http": func(node, method, params string) answer {
			meta := fmt.Sprintf(`{"__conduit__":{"token":%q}`, token)
			if params != "{}" {
				meta += ","
			}
			form := url.Values{"params": {strings.Replace(params, "{", meta, 1)}, "output": {"json"}, "__conduit__": {"true"}}
			return post(t, client, c.Node(t, node).URL("api/"+method), form)
		},
		"ssh": func(node, method, params string) answer {
			start := time.Now()
			r := u.Feed("", params, "ssh", "-F", u.SSHConfig(), node, "conduit", method)
			a := parse(t, r.Stdout, start)
			if (r.Status != 0) != (a.Code != "") {
				t.Errorf("conduit %s over ssh: status %d with %s", method, r.Status, a.raw)
			}
			return a
		},
	}
}

func post(t *testing.T, client *http.Client, address string, form url.Values) answer {
	t.Helper()
	start := time.Now()
	r, err := client.PostForm(address, form)
	if err != nil {
		t.Error(err)
		return answer{}
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("%s: %s, %v\n%s", address, r.Status, err, body)
	}
	return parse(t, string(body), start)
}

func parse(t *testing.T, text string, start time.Time) answer {
	t.Helper()
	a := answer{raw: text, took: time.Since(start)}
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Errorf("%v in %q", err, text)
	}
	return a
}

// TestConduit pushes to each node in turn: the first call at another shows the
// push, over HTTP and over SSH, and both give the same answer.
func TestConduit(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	u := c.Admin
	call := callers(t, c, u)
	work := newWork(t, u)
	for i := range 9 {
		to, at := c.Nodes[i%3].Name, c.Nodes[(i+1)%3].Name
		way := []string{"http", "ssh"}[i%2]
		head := u.Commit(t, work, "f", fmt.Sprint(i))
		u.Via(to).Git(t, work, "push", "-q", "cluster::conduit/a", "main")
		got := call[way](at, "diffusion.resolverefs", `{"repository":"conduit/a","refs":["main"]}`)
		if !strings.Contains(string(got.Result), head) || got.Read.Version != i+1 || got.Read.Node != at || got.Read.Stale {
			t.Errorf("push %d to %s, then %s at %s: no %s in %s", i, to, way, at, head, got.raw)
		}
	}
	for method, params := range map[string]string{
		"conduit.ping":                `{}`,
		"user.whoami":                 `{}`,
		"diffusion.historyquery":      `{"repository":"conduit/a","path":"f","limit":3}`,
		"diffusion.filecontentquery":  `{"repository":"conduit/a","path":"f","commit":"main"}`,
		"diffusion.repository.search": `{"constraints":{"shortNames":["conduit/a"]},"attachments":{"uris":true}}`,
		"diffusion.branchquery":       `{"repository":"conduit/none"}`,
	} {
		if a, b := call["http"]("node2", method, params), call["ssh"]("node2", method, params); a.raw != b.raw {
			t.Errorf("%s: over HTTP\n%s and over SSH\n%s", method, a.raw, b.raw)
		}
	}
	stranger := callers(t, c, addUser(t, "conduit-stranger"))
	for way := range call {
		if got := call[way]("node1", "diffusion.filecontentquery", `{"repository":"conduit/a","path":"f"}`); !strings.Contains(string(got.Result), `"content":"8"`) {
			t.Errorf("%s: %s", way, got.raw)
		}
		if got := stranger[way]("node1", "diffusion.branchquery", `{"repository":"conduit/a"}`); got.Code != "ERR-UNKNOWN-REPOSITORY" {
			t.Errorf("a stranger by %s: %s", way, got.raw)
		}
	}
	node := c.Nodes[0]
	machine := u.With("GIT_CLUSTER_DEVICE_DIR="+filepath.Join(node.Data, "device"), "PHABRICATOR_AS_DEVICE=1")
	r := machine.Feed("", "protocol=https\nhost="+node.HTTP+"\n\n", "git-credential-device", "get")
	_, token, ok := strings.Cut(r.Stdout, "password=")
	token, _, _ = strings.Cut(token, "\n")
	if !ok {
		t.Fatalf("%v: no token in %q", r.Err(), r.Stdout)
	}
	if got := post(t, c.HTTPClient(t), node.URL("api/user.whoami"), url.Values{"api.token": {token}}); !strings.Contains(string(got.Result), `"userName":"device/node1"`) {
		t.Errorf("a device's call: %s", got.raw)
	}
	log := node.Log()
	if !strings.Contains(log, "service=diffusion.filecontentquery front=conduit repo=conduit/a identity=boss") {
		t.Error("no line of the call in the log")
	}
}

// TestConduitCutOff leaves a node without the journal: it refuses what it cannot
// confirm, and answers from what it has, saying so, to who asks for that.
func TestConduitCutOff(t *testing.T) {
	c := clustertest.Start(t, 3)
	u := c.Admin
	call := callers(t, c, u)
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::cut/a", "main")
	var found struct{ Data []struct{ PHID string } }
	at := call["http"]("node3", "diffusion.repository.search", `{"constraints":{"shortNames":["cut/a"]}}`)
	if err := json.Unmarshal(at.Result, &found); err != nil || len(found.Data) != 1 {
		t.Fatalf("%v in %s", err, at.raw)
	}
	if got := call["ssh"]("node3", "diffusion.existsquery", `{"repository":"cut/a","commit":"main"}`); string(got.Result) != "true" {
		t.Fatalf("node3: %s", got.raw)
	}
	// As many calls as later, while nothing is wrong.
	var usual time.Duration
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, do := range call {
		for range 6 {
			wg.Go(func() {
				got := do("node3", "diffusion.resolverefs", `{"repository":"cut/a","refs":["main"]}`)
				mu.Lock()
				defer mu.Unlock()
				usual = max(usual, got.took)
			})
		}
	}
	wg.Wait()
	c.Node(t, "node1").Kill()
	c.Node(t, "node2").Kill()

	// All at once, for each refusal takes its time.
	attempt(t, func() (slow string) {
		inTime := func(what string, got answer, limit time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			if got.took > within(limit, usual) {
				slow += fmt.Sprintf("%s took %v, usually %v; ", what, got.took, usual)
			}
		}
		for way, do := range call {
			for _, repo := range []string{"cut/a", found.Data[0].PHID} {
				wg.Go(func() {
					got := do("node3", "diffusion.resolverefs", fmt.Sprintf(`{"repository":%q,"refs":["main"]}`, repo))
					if got.Code != "ERR-JOURNAL-UNAVAILABLE" || !strings.Contains(got.Info, "staleOK") {
						t.Errorf("%s of %s without the journal: %s", way, repo, got.raw)
					}
					inTime(way+" of "+repo+" without the journal", got, 8*time.Second)
				})
				wg.Go(func() {
					got := do("node3", "diffusion.resolverefs", fmt.Sprintf(`{"repository":%q,"refs":["main"],"staleOK":true}`, repo))
					if !strings.Contains(string(got.Result), head) || !got.Read.Stale || got.Read.Version != 1 || got.Read.Node != "node3" {
						t.Errorf("%s of %s with staleOK: %s", way, repo, got.raw)
					}
					inTime(way+" of "+repo+" with staleOK", got, 3*time.Second)
				})
			}
			wg.Go(func() {
				got := do("node3", "diffusion.repository.search", `{}`)
				if got.Code != "ERR-JOURNAL-UNAVAILABLE" {
					t.Errorf("a search by %s without the journal: %s", way, got.raw)
				}
				inTime("a search by "+way, got, 8*time.Second)
			})
			wg.Go(func() {
				if got := do("node3", "diffusion.repository.search", `{"staleOK":true}`); !strings.Contains(string(got.Result), `"cut/a"`) || !got.Read.Stale {
					t.Errorf("a search by %s with staleOK: %s", way, got.raw)
				}
			})
		}
		wg.Wait()
		return slow
	})
}
