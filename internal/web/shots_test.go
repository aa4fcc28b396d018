package web

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"gitcluster/internal/cluster"
	"gitcluster/internal/login"
)

// TestShots takes pictures of all pages, in light and dark, wide and narrow, into the
// folder WEB_SHOTS, of the repository WEB_SHOTS_REPO, for somebody who changes how
// they look. WEB_SHOTS_ONLY narrows it to names that contain it.
func TestShots(t *testing.T) {
	into, from := os.Getenv("WEB_SHOTS"), os.Getenv("WEB_SHOTS_REPO")
	if into == "" || from == "" {
		t.Skip("for people: WEB_SHOTS=folder WEB_SHOTS_REPO=repository")
	}
	w := newWorld(t)
	m := w.add("tools/git-cluster", false, "alice")
	w.git(m, "", "fetch", "-q", from, "+HEAD:refs/heads/main")
	for i, n := range []int{3, 9, 14} {
		w.git(m, "", "branch", fmt.Sprintf("topic/%d", i+1), fmt.Sprintf("main~%d", n))
	}
	w.git(m, "", "tag", "v0.1.0", "main~12")
	w.git(m, "", "-c", "user.name=Ada", "-c", "user.email=ada@example.com", "tag", "-a", "-m", "The first one that survives a power cut", "v0.2.0", "main~5")
	m.version = 1042
	for i, name := range []cluster.RepoName{"demo/hello", "docs/handbook", "infra/dns", "team/a-rather-long-name-of-a-project", "web/site"} {
		r := w.add(name, i%2 == 0, "alice")
		r.version = cluster.Version(i * i * 17)
	}
	main := w.git(m, "", "rev-parse", "main")
	pages := map[string]string{
		"repos": "/", "home": "/tools/git-cluster", "tree": "/tools/git-cluster/-/tree/main/internal/engine",
		"file": "/tools/git-cluster/-/file/main/internal/engine/engine.go", "readme": "/tools/git-cluster/-/file/main/README.md",
		"blame":   "/tools/git-cluster/-/blame/main/internal/engine/engine.go",
		"history": "/tools/git-cluster/-/history/main", "commit": "/tools/git-cluster/-/commit/" + main,
		"compare": "/tools/git-cluster/-/compare/topic/1...main", "compare-form": "/tools/git-cluster/-/compare",
		"branches": "/tools/git-cluster/-/branches", "tags": "/tools/git-cluster/-/tags",
		"search": "/tools/git-cluster/-/search?q=incarnation", "log": "/tools/git-cluster/-/log",
		"stale": "/tools/git-cluster/-/tree/main/docs?stale=1", "empty": "/demo/hello", "missing": "/no/such",
		"diff": "/tools/git-cluster/-/commit/" + main + "#f3", "clone": "/tools/git-cluster",
		"signin": "/-/signin", "cluster": "/-/cluster", "trouble": "/-/cluster",
	}
	browser := startBrowser(t)
	for name, page := range pages {
		if !strings.Contains(name, os.Getenv("WEB_SHOTS_ONLY")) {
			continue
		}
		w.nodes[1].Up, m.behind = name != "trouble", nil
		if name == "trouble" {
			m.behind = map[cluster.DeviceName]cluster.Version{"node1": 2, "node2": 7}
		}
		for _, scheme := range []string{"light", "dark"} {
			for _, width := range []int64{1280, 360} {
				png, err := shoot(browser, w, name, page, scheme, width)
				if err == nil {
					err = os.WriteFile(filepath.Join(into, fmt.Sprintf("%s-%d-%s.png", name, width, scheme)), png, 0o644)
				}
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
		}
	}
}

func shoot(browser context.Context, w *world, name, page, scheme string, width int64) ([]byte, error) {
	yes := true
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	if _, err := chromedp.Call(browser, emulation.SetEmulatedMedia, media); err != nil {
		return nil, err
	}
	if _, err := chromedp.Call(browser, network.ClearBrowserCookies, cdp.Empty{}); err != nil {
		return nil, err
	}
	if name != "signin" && name != "missing" {
		cookie := network.SetCookieParams{Name: login.CookieName, Value: "gcu-alice", URL: w.server.URL, Path: "/", Secure: &yes, HTTPOnly: &yes}
		if _, err := chromedp.Call(browser, network.SetCookie, cookie); err != nil {
			return nil, err
		}
	}
	if err := chromedp.Do(browser, chromedp.EmulateViewport(width, 900), chromedp.Navigate(w.server.URL+page)); err != nil {
		return nil, err
	}
	if name == "clone" {
		if err := chromedp.Do(browser, chromedp.Click("summary.strong")); err != nil {
			return nil, err
		}
	}
	return chromedp.Run(browser, chromedp.CaptureScreenshot())
}

// startBrowser starts a Chromium of its own that speaks to nobody else.
func startBrowser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()), chromedp.Env("TMPDIR="+t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-sync", true), chromedp.IgnoreCertErrors)
	ctx, end := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(end)
	ctx, end = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(end)
	ctx, end = chromedp.NewContext(ctx)
	t.Cleanup(end)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx
}
