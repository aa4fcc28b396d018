package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"gitcluster/internal/clustertest"
)

// A browser is a headless Chromium that a test looks at pages with.
type browser struct {
	t    testing.TB
	ctx  context.Context
	mu   sync.Mutex
	asks []string // addresses of all requests
	says []string // warnings and errors of the console
}

// openBrowser starts a Chromium of the test's own.
func openBrowser(t testing.TB) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("there is no chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.IgnoreCertErrors,
		chromedp.UserDataDir(t.TempDir()), chromedp.Env("TMPDIR="+t.TempDir()), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))
	ctx, end := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(end)
	ctx, end = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(end)
	ctx, end = chromedp.NewContext(ctx)
	t.Cleanup(end)
	b := &browser{t: t, ctx: ctx}
	if err := chromedp.Listen(ctx, b.listen); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *browser) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		b.asks = append(b.asks, e.Request.URL)
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelWarning || e.Entry.Level == log.EntryLevelError {
			b.says = append(b.says, fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL))
		}
	case *runtime.EventConsoleAPICalled:
		b.says = append(b.says, fmt.Sprintf("console: %s %v", e.Type, e.Args))
	case *runtime.EventExceptionThrown:
		b.says = append(b.says, "exception: "+e.ExceptionDetails.Text)
	}
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatalf("%v; the page shows: %s", err, b.text())
	}
}

// open goes to a page.
func (b *browser) open(n *clustertest.Node, path string) {
	b.t.Helper()
	b.do(chromedp.Navigate(n.URL(path)))
}

// click follows the first link with the text.
func (b *browser) click(text string) {
	b.t.Helper()
	b.do(chromedp.Click(fmt.Sprintf(`//a[normalize-space(.)=%q]`, text)))
}

// text is what the page shows.
func (b *browser) text() string {
	text, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.body ? document.body.innerText : ''"))
	if err != nil {
		return err.Error()
	}
	return text
}

// await waits until the page shows all the texts.
func (b *browser) await(texts ...string) {
	b.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		shown, missing := b.text(), ""
		for _, text := range texts {
			if !strings.Contains(shown, text) {
				missing = text
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("the page never shows %q, but: %s", missing, shown)
		}
		b.do(chromedp.Sleep(50 * time.Millisecond))
	}
}

// TestWeb looks at a private repository with a browser: signs in, goes through its
// pages, and sees what is pushed on other nodes' pages, and on the cluster page
// without loading it again.
func TestWeb(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	u := addUser(t, "wilma")
	c.Admin.Must(t, "", "git-cluster", "grant", "wilma", "admin", "web-a/*")
	token := u.Token(t)
	work := newWork(t, u)
	u.Commit(t, work, "README.md", "# A heading\n\n<script>document.title = 'hacked'</script>\n\n[code](src/main.go)\n\n![far](https://far.example.com/x.png)\n")
	u.Commit(t, work, "src/main.go", "package main\n\nfunc main() {}\n")
	u.Commit(t, work, "<img src=x onerror=alert(1)>.md", "# x\n\n<svg onload=alert(1)>")
	u.Git(t, work, "push", "-q", "cluster::web-a/hello", "main")

	b := openBrowser(t)
	b.open(c.Nodes[0], "web-a/hello")
	b.await("Not found", "Sign in")
	b.mu.Lock()
	b.says = nil // Chromium remarks on the status 404
	b.mu.Unlock()
	b.click("Sign in")
	b.await("Access token")
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), token), chromedp.Submit(chromedp.CSS("#token")))
	b.await("A heading", "src", "change src/main.go", "wilma")
	b.click("code")
	b.await("func main() {}", "3 lines")
	b.click("Blame")
	b.await("Who wrote each line", "change src/main.go")
	b.click("change src/main.go")
	b.await("1 file changed", "added", "func main() {}")
	b.click("History")
	b.await("change README.md")
	b.click("Pushes")
	b.await("wilma pushed", "refs/heads/main")
	b.open(c.Nodes[1], "web-a/hello/-/file/main/%3Cimg%20src=x%20onerror=alert(1)%3E.md")
	b.await("<img src=x onerror=alert(1)>.md")

	// A push to one node is at once on another's page.
	u.Commit(t, work, "news.txt", "new\n")
	u.Via("node2").Git(t, work, "push", "-q", "cluster::web-a/hello", "main")
	b.open(c.Nodes[2], "web-a/hello")
	if shown := b.text(); !strings.Contains(shown, "news.txt") || !strings.Contains(shown, "Version 2") {
		t.Errorf("after the push node3 shows: %s", shown)
	}

	// The cluster page follows without being loaded again.
	b.open(c.Nodes[0], "-/cluster")
	b.await("Nodes", "node1", "node3", "web-a/hello")
	b.do(chromedp.Evaluate[chromedp.Void]("void (window.stays = true)"))
	u.Commit(t, work, "news.txt", "newer\n")
	u.Via("node3").Git(t, work, "push", "-q", "cluster::web-a/hello", "main", "main:refs/heads/other")
	b.await("web-a/hello\t3\t3 of 3")
	if stays, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("window.stays === true")); err != nil || !stays {
		t.Errorf("the page was loaded again (%v)", err)
	}

	// Without scripts everything is there, but for what is live.
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	b.open(c.Nodes[1], "web-a/hello/-/branches")
	b.await("other", "default")
	b.do(chromedp.Click(`//button[.="Sign out"]`))
	b.await("Sign in")
	b.open(c.Nodes[1], "web-a/hello")
	b.await("Not found")

	b.mu.Lock()
	defer b.mu.Unlock()
	for _, address := range b.asks {
		ours := false
		for _, n := range c.Nodes {
			ours = ours || strings.HasPrefix(address, n.URL(""))
		}
		if !ours {
			t.Errorf("the pages made the browser ask for %s", address)
		}
	}
	for _, line := range b.says {
		if !strings.Contains(line, "404") {
			t.Errorf("the console says %q", line)
		}
	}
}

// TestWebStale cuts a node off from the journal: its pages say so, and show what it has
// to those who ask.
func TestWebStale(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 2)
	u := c.Admin
	token := u.Token(t)
	work := newWork(t, u)
	u.Commit(t, work, "f", "1")
	u.Git(t, work, "push", "-q", "cluster::web-b/hello", "main")
	client := c.HTTPClient(t)
	get := func(path string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.Nodes[1].URL(path), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.AddCookie(&http.Cookie{Name: "__Host-gitcluster", Value: token})
		return fetch(t, client, r)
	}
	if status, body := get("web-b/hello"); status != http.StatusOK || !strings.Contains(body, "current when this page was made") {
		t.Fatalf("status %d: %s", status, body)
	}
	c.Nodes[0].Kill() // the only voter
	status, body := get("web-b/hello")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "/web-b/hello?stale=1") {
		t.Errorf("without a journal: status %d: %s", status, body)
	}
	status, body = get("web-b/hello?stale=1")
	if status != http.StatusOK || !strings.Contains(body, "version 1 as node2 has it") {
		t.Errorf("what the node has: status %d: %s", status, body)
	}
	status, body = get("-/cluster")
	if status != http.StatusOK || !strings.Contains(body, "The journal does not answer.") {
		t.Errorf("the cluster page: status %d: %s", status, body)
	}
}

func fetch(t testing.TB, client *http.Client, r *http.Request) (int, string) {
	t.Helper()
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}
