package credential

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
)

// newHelper is a helper on a machine whose client's configuration has one node,
// "configured", and whose account has nothing.
func newHelper(t *testing.T, env map[string]string) *Helper {
	t.Helper()
	home := t.TempDir()
	path := filepath.Join(home, "client.toml")
	client := config.Client{Clusters: map[string]*config.Cluster{"demo": {Nodes: []config.Node{{Name: "node2", SSH: "configured:2222"}}}}}
	if err := client.Write(path); err != nil {
		t.Fatal(err)
	}
	t.Setenv(config.EnvClient, path)
	return &Helper{
		Getenv:  func(key string) string { return env[key] },
		Environ: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C"},
		Now:     func() time.Time { return now },
	}
}

func TestAnswer(t *testing.T) {
	dir, id := enroll(t, "node1:2222")
	flag := map[string]string{EnvAsDevice: "1", EnvDir: dir}
	with := func(key, value string) map[string]string {
		env := maps.Clone(flag)
		env[key] = value
		return env
	}
	https := Request{Protocol: "https", Host: "node1:8443"}
	ask := func(edit func(*Request)) Request {
		q := https
		edit(&q)
		return q
	}
	open, _ := enroll(t, "node1:2222")
	if err := os.Chmod(filepath.Join(open, fileKey), 0o644); err != nil {
		t.Fatal(err)
	}
	broken, _ := enroll(t, "node1:2222")
	edit(t, filepath.Join(broken, fileDevice), "{", "[")

	for name, c := range map[string]struct {
		env  map[string]string
		q    Request
		keys string // of the answer
		err  string
	}{
		"no flag":             {with(EnvAsDevice, ""), https, "", ""},
		"flag 0":              {with(EnvAsDevice, "0"), https, "", ""},
		"no flag, a conflict": {map[string]string{EnvDir: dir, EnvCredential: "x"}, https, "", ""},
		"unknown host":        {flag, ask(func(q *Request) { q.Host = "github.com" }), "", ""},
		"part of a host":      {flag, ask(func(q *Request) { q.Host = "node" }), "", ""},
		"more than a host":    {flag, ask(func(q *Request) { q.Host = "node1.evil.example" }), "", ""},
		"no host":             {flag, ask(func(q *Request) { q.Host = "" }), "", ""},
		"a bad host":          {flag, ask(func(q *Request) { q.Host = "node1 x" }), "", ""},
		"another protocol":    {flag, ask(func(q *Request) { q.Protocol = "imap" }), "", ""},

		"old Git":                {flag, https, "username password password_expiry_utc", ""},
		"new Git":                {flag, ask(func(q *Request) { q.AuthType = true }), "capability[] authtype credential ephemeral password_expiry_utc", ""},
		"without a port":         {flag, ask(func(q *Request) { q.Host = "NODE1" }), "username password password_expiry_utc", ""},
		"the client's host":      {flag, ask(func(q *Request) { q.Host = "configured" }), "username password password_expiry_utc", ""},
		"the device by its name": {flag, ask(func(q *Request) { q.Username = "device/repo001" }), "username password password_expiry_utc", ""},
		"ssh":                    {flag, ask(func(q *Request) { q.Protocol = "ssh"; q.Username = "alice" }), "username identityfile fingerprint", ""},

		"a credential too":   {with(EnvCredential, "x"), https, "quit", EnvAsDevice + " asks for the device's identity, and " + EnvCredential},
		"a user too":         {flag, ask(func(q *Request) { q.Username = "alice" }), "quit", `the user name "alice"`},
		"another device too": {flag, ask(func(q *Request) { q.Username = "device/repo002" }), "quit", `the user name "device/repo002"`},
		"clear text":         {flag, ask(func(q *Request) { q.Protocol = "http" }), "quit", "unencrypted"},
		"no device":          {with(EnvDir, t.TempDir()), ask(func(q *Request) { q.Host = "configured" }), "quit", "this machine is no device"},
		"no device, unknown": {with(EnvDir, t.TempDir()), https, "", ""},
		"an open key":        {with(EnvDir, open), https, "quit", "may be used by others"},
		"a broken device":    {with(EnvDir, broken), https, "quit", fileDevice},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHelper(t, c.env)
			a, err := h.Answer(t.Context(), c.q)
			var keys []string
			said := map[string]string{}
			for _, line := range a {
				keys = append(keys, line.Key)
				said[line.Key] = line.Value
			}
			if strings.Join(keys, " ") != c.keys {
				t.Errorf("the answer is %q", a)
			}
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("the error is %v", err)
			}
			host, _ := Audience(c.q.Host)
			for _, key := range []string{"password", "credential"} {
				if token := said[key]; token != "" {
					if _, err := Verify(token, host, testCluster, now, registry(id)); err != nil {
						t.Error(err)
					}
				}
			}
			for key, want := range map[string]string{
				"username": "device/repo001", "authtype": "ClusterDevice", "capability[]": "authtype", "ephemeral": "1", "quit": "1",
				"password_expiry_utc": "1800000300", "identityfile": filepath.Join(dir, "id_ed25519"), "fingerprint": id.Fingerprint(),
			} {
				if c.q.Protocol == "ssh" && key == "username" {
					want = c.q.Username
				}
				if got, ok := said[key]; ok && got != want {
					t.Errorf("%s is %q and not %q", key, got, want)
				}
			}
		})
	}
}

func TestAnswerNamesAnAgent(t *testing.T) {
	dir, id := enroll(t, "node1:22")
	id.Agent = "/run/agent.sock"
	if err := id.Save(dir); err != nil {
		t.Fatal(err)
	}
	h := newHelper(t, map[string]string{EnvAsDevice: "1", EnvDir: dir})
	a, err := h.Answer(t.Context(), Request{Protocol: "ssh", Host: "node1"})
	want := Answer{{"username", "git"}, {"identityagent", "/run/agent.sock"}, {"fingerprint", ssh.FingerprintSHA256(id.PublicKey())}}
	if err != nil || len(a) != len(want) || a[0] != want[0] || a[1] != want[1] || a[2] != want[2] {
		t.Errorf("the answer is %q, %v", a, err)
	}
}

// A configuration that cannot be read may have the host.
func TestAnswerWithABrokenConfiguration(t *testing.T) {
	dir, _ := enroll(t, "node1:22")
	h := newHelper(t, map[string]string{EnvAsDevice: "1", EnvDir: dir})
	path := os.Getenv(config.EnvClient)
	if err := os.WriteFile(path, []byte("["), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err := h.Answer(t.Context(), Request{Protocol: "https", Host: "x"}); err == nil || len(a) != 1 || a[0] != quit[0] {
		t.Errorf("unreadable: %q, %v", a, err)
	}
	if a, err := h.Answer(t.Context(), Request{Protocol: "https", Host: "node1"}); err != nil || len(a) != 3 {
		t.Errorf("a host that is known without it: %q, %v", a, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if a, err := h.Answer(t.Context(), Request{Protocol: "https", Host: "x"}); err != nil || a != nil {
		t.Errorf("without the file: %q, %v", a, err)
	}
	h.Environ = []string{"PATH=" + os.Getenv("PATH")}
	if a, err := h.Answer(t.Context(), Request{Protocol: "https", Host: "x"}); err != nil || a != nil {
		t.Errorf("without a home: %q, %v", a, err)
	}
}

func TestGetEndsWithItsContext(t *testing.T) {
	dir, id := enroll(t, "node1:22")
	why := errors.New("time is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)

	in, asker := io.Pipe() // and nobody asks
	t.Cleanup(func() { asker.Close() })
	var out strings.Builder
	if err := newHelper(t, map[string]string{EnvAsDevice: "1", EnvDir: dir}).Get(ctx, in, &out); !errors.Is(err, why) || out.String() != "quit=1\n" {
		t.Errorf("no request: %q, %v", out.String(), err)
	}
	out.Reset()
	if err := newHelper(t, nil).Get(ctx, in, &out); err != nil || out.String() != "" {
		t.Errorf("no request and no flag: %q, %v", out.String(), err)
	}

	id.Agent = serveAgent(t, nil) // takes the request and never answers
	if err := id.Save(dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	if _, _, err := Issue(ctx, id, "node1", now); !errors.Is(err, why) {
		t.Errorf("a deaf agent: %v", err)
	}
}

func TestConfigKey(t *testing.T) {
	for in, want := range map[string]string{
		"https://Git.Example.com":         "https://git.example.com",
		"https://git.example.com/":        "https://git.example.com",
		"https://git.example.com:443/a//": "https://git.example.com/a",
		"https://git.example.com:8443/A":  "https://git.example.com:8443/A",
		"https://[::1]:8443":              "https://[::1]:8443",
		"https://127.0.0.1/a%20b":         "https://127.0.0.1/a%20b",
	} {
		if got, err := configKey(in); err != nil || got != "credential."+want+".helper" {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
	}
	for _, bad := range []string{
		"", "x", "git.example.com", "http://a", "ssh://a", "https:", "https://", "https:///x", "https:a", "https://a b", "https://a\nb", "https://a/\x00",
		"https://a?x", "https://a?", "https://a#x", "https://a#", "https://*.a", "https://a:0", "https://a:65536", "https://a:x",
		"https://a/../b", "https://a/./b", "https://a/b//c", "--global", "https://-a", "https://a/" + strings.Repeat("b", 2048),
	} {
		if got, err := configKey(bad); !errors.Is(err, ErrBadURL) || cluster.Hint(err) == "" {
			t.Errorf("%q: got %q, %v", bad, got, err)
		}
	}
	if _, err := configKey("https://u:secret@a"); !errors.Is(err, ErrBadURL) || strings.Contains(err.Error(), "secret") {
		t.Errorf("a password: %v", err)
	}
}
