package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
)

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMAQXL6tXfwjWJHQuFJtmTUQp9PdWZEI+JmAvPIJE1Hg"

const sample = `default = "demo"

[cluster.demo]
identity = "keys/id"
known-hosts = "~/known"

[[cluster.demo.node]]
name = "node1"
ssh = "127.0.0.1:2201"
host-key = "` + testKey + ` comment"

[[cluster.demo.node]]
name = "node2"
ssh = "[::1]"

[cluster.other]
user = "alice"
[[cluster.other.node]]
name = "x"
ssh = "git.example.org"
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "client.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadAndWrite(t *testing.T) {
	t.Setenv("HOME", "/home/u")
	path := write(t, sample)
	c, err := LoadClient(path)
	if err != nil {
		t.Fatal(err)
	}
	want := &Client{Default: "demo", Clusters: map[string]*Cluster{
		"demo": {Identity: filepath.Join(filepath.Dir(path), "keys/id"), KnownHosts: "/home/u/known", Nodes: []Node{
			{Name: "node1", SSH: "127.0.0.1:2201", HostKey: testKey + " comment"}, {Name: "node2", SSH: "[::1]"},
		}},
		"other": {User: "alice", Nodes: []Node{{Name: "x", SSH: "git.example.org"}}},
	}}
	if !reflect.DeepEqual(c, want) {
		t.Fatalf("loaded %+v", c)
	}
	for i, addr := range []string{"127.0.0.1:2201", "[::1]:22"} {
		if got := c.Clusters["demo"].Nodes[i].Addr(); got != addr {
			t.Errorf("address %q, want %q", got, addr)
		}
	}
	again := filepath.Join(t.TempDir(), "new", "dir", "client.toml")
	for range 2 {
		if err := c.Write(again); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := LoadClient(again); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("written and loaded: %+v, %v", got, err)
	}
	files, err := os.ReadDir(filepath.Dir(again))
	if err != nil || len(files) != 1 {
		t.Errorf("%d files beside the one written, %v", len(files)-1, err)
	}
	if err := (&Client{}).Write(again); err == nil {
		t.Error("an empty configuration was written")
	}
}

func TestLoadErrors(t *testing.T) {
	change := func(old, new string) string { return strings.Replace(sample, old, new, 1) }
	for name, c := range map[string]struct{ text, want string }{
		"syntax":          {change(`"demo"`, `demo"`), "line 1: "},
		"type":            {change(`"demo"`, "22"), "line 1"},
		"unknown key":     {change("identity", "idendity"), `line 4: unknown key "cluster.demo.idendity"`},
		"unknown in node": {change(`name = "node2"`, "name = \"node2\"\nport = 3"), `line 14: unknown key "cluster.demo.node.port"`},
		"unknown table":   {sample + "[clusters.x]\nuser = \"y\"\n", `line 21: unknown key "clusters`},
		"default":         {change(`default = "demo"`, `default = "dem"`), `line 1: the default cluster "dem"`},
		"host key":        {change("AAAAC3", "AAAAC4"), "line 10: bad host key"},
		"two host keys":   {change(" comment\"", "\\n"+testKey+"\""), "line 10: bad host key"},
		"port":            {change("2201", "0"), "line 9: bad address"},
		"option":          {change("127.0.0.1:2201", "-oProxyCommand=x"), "line 9: bad address"},
		"address":         {change("[::1]", "a b"), "line 14: bad address"},
		"node twice":      {change("node2", "node1"), "line 13: bad or repeated"},
		"node nameless":   {change(`name = "node2"`, ""), "node 2 of cluster \"demo\" lacks"},
		"no node":         {sample + "[cluster.third]\n", "line 21: cluster \"third\" has no node"},
		"cluster name":    {change("[cluster.other]", `[cluster."o:r"]`), "bad cluster name"},
		"user":            {change(`"alice"`, `"-l"`), "line 17: bad user"},
		"other's home":    {change("~/known", "~bob/known"), "line 5: "},
		"empty":           {"", "it names no cluster"},
		"large":           {strings.Repeat("#", maxFile+1), "longer than"},
		"control byte":    {change("node1", "node\x00"), "line 8"},
	} {
		path := write(t, c.text)
		got, err := LoadClient(path)
		if err == nil {
			t.Errorf("%s: loaded %+v", name, got)
			continue
		}
		if !strings.HasPrefix(err.Error(), path+": ") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	_, err := LoadClient("/nonexistent/client.toml")
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(cluster.Hint(err), EnvClient) {
		t.Errorf("missing: %v, hint %q", err, cluster.Hint(err))
	}
}

func TestFind(t *testing.T) {
	c, err := LoadClient(write(t, sample))
	if err != nil {
		t.Fatal(err)
	}
	for asked, want := range map[string]string{"": "demo", "other": "other"} {
		if name, k, err := c.Find(asked); name != want || k != c.Clusters[want] || err != nil {
			t.Errorf("Find(%q) = %q, %v", asked, name, err)
		}
	}
	if _, _, err := c.Find("none"); !errors.Is(err, ErrNoCluster) || !strings.Contains(cluster.Hint(err), "demo, other") {
		t.Errorf("Find(none): %v, hint %q", err, cluster.Hint(err))
	}
	c.Default = ""
	if _, _, err := c.Find(""); !errors.Is(err, ErrNoCluster) || !strings.Contains(err.Error(), "2 clusters") {
		t.Errorf("Find without default: %v", err)
	}
	delete(c.Clusters, "other")
	if name, _, err := c.Find(""); name != "demo" || err != nil {
		t.Errorf("Find of the only one: %q, %v", name, err)
	}
}

func TestClientPath(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv(EnvClient, "")
	dotConfig := filepath.Join(home, ".config", "git-cluster", "client.toml")
	if got := ClientPath(); got != dotConfig {
		t.Errorf("nothing there: %q, want %q", got, dotConfig)
	}
	xdg := filepath.Join(home, "xdg")
	t.Setenv("XDG_CONFIG_HOME", xdg)
	if got, want := ClientPath(), filepath.Join(xdg, "git-cluster", "client.toml"); got != want {
		t.Errorf("XDG_CONFIG_HOME: %q, want %q", got, want)
	}
	t.Setenv(EnvClient, "/some/file")
	if got := ClientPath(); got != "/some/file" {
		t.Errorf("%s: %q", EnvClient, got)
	}
}

func FuzzLoadClient(f *testing.F) {
	f.Add(sample)
	f.Add("[[cluster.demo]]\n")
	f.Add("cluster = 3")
	f.Fuzz(func(t *testing.T, text string) {
		path := write(t, text)
		c, err := LoadClient(path)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q: the error has several lines: %q", text, err)
			}
			return
		}
		if err := c.Write(path); err != nil {
			t.Fatalf("%q: loaded but not written: %v", text, err)
		}
		if again, err := LoadClient(path); err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("%q: written and loaded: %+v, %v", text, again, err)
		}
	})
}

func TestChoiceSettings(t *testing.T) {
	const text = `[cluster.a]
region = "eu"
sync-wait = "1.5s"
learn = false
[[cluster.a.node]]
name = "n"
ssh = "h"
region = "us"
[cluster.b]
[[cluster.b.node]]
name = "n"
ssh = "h"
`
	c, err := LoadClient(write(t, text))
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.Clusters["a"], c.Clusters["b"]
	if a.Region != "eu" || a.SyncWait != 1500*time.Millisecond || a.Learns() || a.Nodes[0].Region != "us" || b.SyncWait != 0 || !b.Learns() {
		t.Errorf("%+v and %+v", a, b)
	}
	path := filepath.Join(t.TempDir(), "client.toml")
	if err := c.Write(path); err != nil {
		t.Fatal(err)
	}
	again, err := LoadClient(path)
	written, _ := os.ReadFile(path)
	if err != nil || !reflect.DeepEqual(again, c) || strings.Count(string(written), "sync-wait") != 1 || strings.Count(string(written), "learn") != 1 {
		t.Errorf("written and read again: %v\n%s", err, written)
	}
	for _, bad := range []string{`"3"`, `3`, `"-1s"`, `"2h"`, `"x"`} {
		if _, err := LoadClient(write(t, strings.Replace(text, `"1.5s"`, bad, 1))); err == nil {
			t.Errorf("sync-wait = %s is accepted", bad)
		}
	}
}
