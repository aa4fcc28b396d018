package gitcmd

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

func TestRemoteForms(t *testing.T) {
	for text, want := range map[string]RemoteURI{
		"https://example.org/a/b.git":     {Protocol: HTTPS, Host: "example.org"},
		"https://bob@example.org:8443/a":  {Protocol: HTTPS, Host: "example.org:8443", User: "bob"},
		"http://[::1]:80/a":               {Protocol: HTTP, Host: "[::1]:80"},
		"ssh://git@example.org:22/a":      {Protocol: SSH, Host: "example.org:22", User: "git"},
		"ssh://example.org/~bob/a b":      {Protocol: SSH, Host: "example.org"},
		"git@example.org:a/b.git":         {Protocol: SSH, Host: "example.org", User: "git"},
		"git://example.org:9418/a":        {Protocol: Daemon, Host: "example.org:9418"},
		"cluster://git@a:22,[::1]:2222/x": {Protocol: Cluster, Host: "a:22,[::1]:2222", User: "git"},
		"cluster::other:team/x":           {Protocol: Cluster},
		"cluster::bob@other:team/x":       {Protocol: Cluster},
	} {
		want.text = text
		if got, err := ParseRemote(text); got != want || err != nil {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
}

// Each refusal is a rule of what a stranger's address could otherwise do.
func TestRemoteRefusals(t *testing.T) {
	for rule, list := range map[string]map[string]string{
		"no program of the address's choice": {
			"ext::sh -c id":           "names a program",
			"ext::ssh%20host":         "names a program",
			"fd::7":                   "names a program",
			"foo::https://h/x":        "names a program",
			"CLUSTER::x":              "names a program",
			"cluster::ext://x":        "another kind of URL",
			"cluster::cluster://h/x":  "another kind of URL",
			"ftp://h/x":               "not one a node follows",
			"HTTPS://h/x":             "not one a node follows",
			"ext://h/x":               "not one a node follows",
			"transport::address::foo": "names a program",
		},
		"not this machine's disk": {
			"file:///srv/git/x":    "own disk",
			"file://localhost/x":   "own disk",
			"/srv/git/x.git":       "own disk",
			"../x":                 "own disk",
			".":                    "own disk",
			"x":                    "own disk",
			"/srv/a:b":             "own disk",
			"./a:b":                "own disk",
			"~/x":                  "own disk",
			"file:/etc":            "", // ssh to a host called file, as for Git
			"c:\\repo":             "", // likewise
			"\\\\server\\share\\x": "own disk",
		},
		"nothing that looks like an option": {
			"-oProxyCommand=id:x":                   "begins with \"-\"",
			"--upload-pack=id":                      "begins with \"-\"",
			"ssh://-oProxyCommand=id/x":             "begins with \"-\"",
			"ssh://-oProxyCommand@h/x":              "the user begins",
			"ssh://git@-oProxyCommand=id/x":         "the host begins",
			"ssh://git@%2DoProxyCommand/x":          "not a URL",
			"git@-oProxyCommand=id:x":               "the host begins",
			"-l@h:x":                                "begins with \"-\"",
			"git@h:-x":                              "the path begins",
			"git@h:--upload-pack=id":                "the path begins",
			"git://-h/x":                            "the host begins",
			"https://-h/x":                          "the host begins",
			"cluster://-h/x":                        "the host begins",
			"cluster://a,-h/x":                      "the host begins",
			"cluster://-u@h/x":                      "the user begins",
			"cluster::-x":                           "begins with \"-\"",
			"cluster::other:-x":                     "begins with \"-\"",
			"cluster://h/-x":                        "the path begins",
			"ssh://h/-x":                            "the path begins",
			"ssh://git%40h%20-oProxyCommand=id@h/x": "not allowed",
		},
		"no control characters": {
			"https://h/x\ny":       "control characters",
			"https://h/x%0ay":      "control characters",
			"https://h/x%00":       "control characters",
			"https://a%0ab@h/x":    "not allowed",
			"git@h:x\x1b[2J":       "control characters",
			"ssh://h/\xff":         "control characters",
			"cluster::x\r":         "control characters",
			"https://h\u0085.de/x": "control characters",
		},
		"no secret": {
			"https://bob:hunter2@h/x":        "password",
			"https://:hunter2@h/x":           "password",
			"https://bob:hunter2%40@h/x":     "password",
			"ssh://bob:hunter2@h/x":          "password",
			"bob:hunter2@h:x":                "password",
			"cluster://bob:hunter2@h/x":      "password",
			"cluster::bob:hunter2@other:x":   "password",
			"https://h/x?token=hunter2":      "more than a host",
			"https://h/x#hunter2":            "more than a host",
			"git://bob:hunter2@h/x":          "password",
			"https://bob:hunter2@h/x?a=@b":   "password",
			"https://bob%3Ahunter2@h/x":      "password",
			"https://bob:hunter2@h\x01/x":    "control",
			"https://bob:hunter2@h/%zz":      "not a URL",
			"svn://bob:hunter2@h/x":          "not one",
			"https://bob:hunter2@[::1/x":     "not a URL",
			"https://bob:hunt/hunter2@h:p/x": "",
		},
		"a host and a repository": {
			"":                     "empty",
			"https://":             "names no host",
			"https://h":            "names no repository",
			"https://h/":           "names no repository",
			"https:///x":           "names no host",
			"https://@h/x":         "the user before",
			"ssh://git@/x":         "names no host",
			"git@h:":               "names no repository",
			"@h:x":                 "the user before",
			":x":                   "names no host",
			"git://h":              "names no repository",
			"git://bob@h/x":        "knows no users",
			"cluster://h":          "names no repository",
			"cluster:///x":         "names no host",
			"cluster::":            "names no repository",
			"cluster::other:":      "", // the helper says what is wrong
			"https://h$(id)/x":     "the host has",
			"ssh://h;id/x":         "the host has",
			"git@h h:x":            "the host has",
			"https://h:99999999/x": "port",
			"ssh://h:p/x":          "not a URL",
			"[::1]:x":              "IPv6",
			"git@[::1]:x":          "IPv6",
			"https://h/" + strings.Repeat("x", maxRemote): "longer than",
		},
	} {
		t.Run(rule, func(t *testing.T) {
			for text, part := range list {
				u, err := ParseRemote(text)
				if part == "" {
					if err == nil && u.Protocol != SSH && u.Protocol != Cluster {
						t.Errorf("%.60q became %+v", text, u)
					}
					continue
				}
				switch {
				case err == nil:
					t.Errorf("%.60q was accepted as %+v", text, u)
				case !strings.Contains(err.Error(), part):
					t.Errorf("%.60q: %v, want %q", text, err, part)
				case cluster.Hint(err) == "" || len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\n\x1b"):
					t.Errorf("%.60q: not fit for a person: %q", text, err)
				case strings.Contains(err.Error(), "hunter"):
					t.Errorf("%.60q: the error repeats the password: %v", text, err)
				}
			}
		})
	}
}

func FuzzParseRemote(f *testing.F) {
	for _, s := range []string{"https://u@h:1/x", "git@h:x", "ssh://[::1]/x", "cluster::a:b", "ext::id", "https://a:b@h/x", "a@b:c@d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseRemote(s)
		if err != nil {
			return
		}
		if u.String() != s || s[0] == '-' || strings.HasPrefix(u.Host, "-") || strings.HasPrefix(u.User, "-") || strings.ContainsAny(s, "\n\x00") {
			t.Errorf("%q was accepted as %+v", s, u)
		}
		if strings.Contains(u.User, ":") {
			t.Errorf("%q: the user %q holds a password", s, u.User)
		}
	})
}

// remotes has one address of each protocol.
var remotes = map[Protocol]string{
	HTTPS: "https://h.example/x", HTTP: "http://h.example/x", SSH: "git@h.example:x", Daemon: "git://h.example/x", Cluster: "cluster://h.example/x",
}

var identities = map[string]Identity{
	"nobody": {}, "key": {Key: "/s/key"}, "password": {Password: "/s/store"}, "device": {DeviceDir: "/s/device"},
}

func remote(t *testing.T, p Protocol, id Identity) Remote {
	t.Helper()
	uri, err := ParseRemote(remotes[p])
	if err != nil {
		t.Fatal(err)
	}
	return Remote{URI: uri, Identity: id, KnownHosts: "/s/known", Home: "/s/home", ClientConfig: "/s/client.toml", CAInfo: "/s/ca.pem",
		Proxy: Proxy{HTTPSProxy: "http://proxy:3128", HTTPProxy: "http://proxy:3128", NoProxy: "10.0.0.0/8"}}
}

// purposes are the commands of a remote.
var purposes = map[string]func(Remote) (Command, error){
	"list":  Remote.ListRefs,
	"fetch": func(r Remote) (Command, error) { return r.Fetch(dir) },
}

// each calls f with every command of every protocol and identity that fit.
func each(t *testing.T, f func(name string, p Protocol, who string, c Command)) {
	t.Helper()
	for p := range remotes {
		for who, id := range identities {
			for what, build := range purposes {
				if c, err := build(remote(t, p, id)); err == nil {
					f(strings.Join([]string{what, string(p), who}, "/"), p, who, c)
				}
			}
		}
	}
}

func TestDeviceAndUserCredentialExcludeEachOther(t *testing.T) {
	for _, id := range []Identity{{DeviceDir: "/d", Key: "/k"}, {DeviceDir: "/d", Password: "/p"}, {DeviceDir: "/d", Key: "/k", Password: "/p"}, {Key: "/k", Password: "/p"}} {
		for p := range remotes {
			for what, build := range purposes {
				if _, err := build(remote(t, p, id)); err == nil || !strings.Contains(err.Error(), "exclude each other") {
					t.Errorf("%s %s with %+v: %v", what, p, id, err)
				}
			}
		}
	}
}

// What fits what: a device only cluster addresses, a key only ssh, a password
// only HTTP; nobody fits all.
func TestIdentityFitsTheProtocol(t *testing.T) {
	fits := map[string][]Protocol{"nobody": {HTTPS, HTTP, SSH, Daemon, Cluster}, "key": {SSH}, "password": {HTTPS, HTTP}, "device": {Cluster}}
	for who, id := range identities {
		for p := range remotes {
			for what, build := range purposes {
				if _, err := build(remote(t, p, id)); (err == nil) != slices.Contains(fits[who], p) {
					t.Errorf("%s %s as %s: %v", what, p, who, err)
				}
			}
		}
	}
}

func TestDeviceOnlyWhereAskedFor(t *testing.T) {
	each(t, func(name string, p Protocol, who string, c Command) {
		vars, _ := environment(t, c)
		asked := who == "device"
		if (vars["PHABRICATOR_AS_DEVICE"] == "1") != asked || (vars["GIT_CLUSTER_DEVICE_DIR"] == "/s/device") != asked {
			t.Errorf("%s: the device's variables are %q %q", name, vars["PHABRICATOR_AS_DEVICE"], vars["GIT_CLUSTER_DEVICE_DIR"])
		}
	})
}

func TestSSHCommandOnlyForSSH(t *testing.T) {
	each(t, func(name string, p Protocol, who string, c Command) {
		vars, _ := environment(t, c)
		if command, there := vars["GIT_SSH_COMMAND"]; there != (p == SSH) || (vars["GIT_SSH_VARIANT"] == "ssh") != (p == SSH) {
			t.Errorf("%s: GIT_SSH_COMMAND is %q", name, command)
		} else if there {
			for _, want := range []string{"ssh -F /dev/null ", "'BatchMode=yes'", "'IdentitiesOnly=yes'", "'IdentityAgent=none'", "'StrictHostKeyChecking=accept-new'", `'UserKnownHostsFile="/s/known"'`, "ConnectTimeout="} {
				if !strings.Contains(command, want) {
					t.Errorf("%s: %q lacks %q", name, command, want)
				}
			}
			if strings.Contains(command, "/s/key") != (who == "key") || strings.Contains(command, "IdentityFile=none") != (who == "nobody") {
				t.Errorf("%s: the identity in %q", name, command)
			}
		}
	})
}

func TestProxyAndAuthoritiesOnlyForHTTP(t *testing.T) {
	each(t, func(name string, p Protocol, _ string, c Command) {
		vars, config := environment(t, c)
		for v, want := range map[string]string{"https_proxy": "http://proxy:3128", "http_proxy": "http://proxy:3128", "no_proxy": "10.0.0.0/8"} {
			if !p.isHTTP() {
				want = ""
			}
			if vars[v] != want {
				t.Errorf("%s: %s is %q, want %q", name, v, vars[v], want)
			}
		}
		if (config["http.sslcainfo"] == "/s/ca.pem") != p.isHTTP() || (config["http.lowspeedtime"] == "60") != p.isHTTP() {
			t.Errorf("%s: HTTP's settings: %q", name, config)
		}
	})
	for _, proxy := range []Proxy{{HTTPSProxy: "http://u:p@proxy"}, {HTTPProxy: "u@proxy"}} {
		r := remote(t, HTTPS, Identity{})
		r.Proxy = proxy
		if _, err := r.ListRefs(); err == nil {
			t.Errorf("%+v puts a secret into the environment", proxy)
		}
	}
}

func TestCredentialHelperOnlyForAPassword(t *testing.T) {
	each(t, func(name string, p Protocol, who string, c Command) {
		_, config := environment(t, c)
		want, there := config["credential.helper"]
		if there != p.isHTTP() || (want == "store --file='/s/store'") != (who == "password") || who != "password" && want != "" {
			t.Errorf("%s: the helper is %q", name, want)
		}
		// Others that the system might name are dropped first.
		first := slices.IndexFunc(c.Env, func(v string) bool { return strings.HasSuffix(v, "=credential.helper") })
		if there && c.Env[first+1][strings.Index(c.Env[first+1], "=")+1:] != "" {
			t.Errorf("%s: the first helper is %q", name, c.Env[first+1])
		}
	})
}

func TestOnlyTheRemotesOwnProtocolIsAllowed(t *testing.T) {
	each(t, func(name string, p Protocol, _ string, c Command) {
		_, config := environment(t, c)
		if config["protocol.allow"] != "never" || config["transfer.credentialsinurl"] != "die" {
			t.Errorf("%s: protocol.allow is %q, transfer.credentialsInUrl %q", name, config["protocol.allow"], config["transfer.credentialsinurl"])
		}
		for k, v := range config {
			if strings.HasPrefix(k, "protocol.") && k != "protocol.allow" && (k != "protocol."+string(p)+".allow" || v != "always") {
				t.Errorf("%s: %s is %q", name, k, v)
			}
		}
	})
}

func TestRemoteArguments(t *testing.T) {
	each(t, func(name string, p Protocol, _ string, c Command) {
		want := "git ls-remote --symref --end-of-options " + remotes[p]
		if strings.HasPrefix(name, "fetch") {
			want = "git fetch --no-tags --no-write-fetch-head --no-auto-maintenance --no-recurse-submodules --progress --stdin --end-of-options " + remotes[p]
		}
		if got := strings.Join(c.Args, " "); got != want {
			t.Errorf("%s is\n%s, want\n%s", name, got, want)
		}
	})
}

func TestRemoteEnvironmentIsClosed(t *testing.T) {
	for _, v := range []string{"GIT_DIR", "LD_PRELOAD", "GIT_CONFIG_PARAMETERS", "SSH_AUTH_SOCK", "GIT_ASKPASS", "SSH_ASKPASS", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HOME", "LC_ALL",
		"GIT_SSH_COMMAND", "PHABRICATOR_AS_DEVICE", "PHABRICATOR_CREDENTIAL", "GIT_CLUSTER_CONFIG", "GIT_SSL_NO_VERIFY"} {
		t.Setenv(v, "/from/outside")
	}
	each(t, func(name string, p Protocol, _ string, c Command) {
		vars, config := environment(t, c)
		for k, v := range vars {
			if strings.Contains(v, "/from/outside") {
				t.Errorf("%s: %s came in from outside", name, k)
			}
		}
		home := os.DevNull
		if p == Cluster {
			home = "/s/home"
		}
		if vars["LC_ALL"] != "C" || vars["HOME"] != home || vars["GIT_CONFIG_NOSYSTEM"] != "1" || vars["GIT_TERMINAL_PROMPT"] != "0" {
			t.Errorf("%s: %q", name, vars)
		}
		wantDir := os.DevNull
		if strings.HasPrefix(name, "fetch") {
			wantDir = dir
			if config["fetch.fsckobjects"] != "true" || config["fetch.fsck.badtimezone"] != "ignore" || config["fetch.unpacklimit"] != "1" {
				t.Errorf("%s: fetch's settings: %q", name, config)
			}
		}
		if vars["GIT_DIR"] != wantDir {
			t.Errorf("%s: GIT_DIR is %q", name, vars["GIT_DIR"])
		}
	})
}

func TestRemotePathsAreChecked(t *testing.T) {
	for _, change := range []func(*Remote){
		func(r *Remote) { r.KnownHosts = "" },
		func(r *Remote) { r.KnownHosts = "known" },
		func(r *Remote) { r.KnownHosts = "/s/${HOME}/known" },
		func(r *Remote) { r.Identity.Key = "-oProxyCommand=id" },
		func(r *Remote) { r.Identity.Key = "/s/new\nline" },
		func(r *Remote) { r.URI = RemoteURI{} },
	} {
		r := remote(t, SSH, Identity{Key: "/s/key"})
		change(&r)
		if c, err := r.ListRefs(); err == nil {
			t.Errorf("%+v gives %q", r, c.Args)
		}
	}
}

// OpenSSH and the shell read back the paths that were given.
func TestSSHReadsThePaths(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("there is no ssh")
	}
	for _, path := range []string{"/plain", "/with space", `/quo"te`, "/apo'strophe", `/back\slash`, "/$dollar", "/`tick`", "/ü", "/semi;colon", "/has#hash", "/per%cent"} {
		r := remote(t, SSH, Identity{Key: path + "/key"})
		r.KnownHosts = path + "/known"
		c, err := r.ListRefs()
		if err != nil {
			t.Fatal(err)
		}
		vars, _ := environment(t, c)
		cmd := exec.Command("sh", "-c", vars["GIT_SSH_COMMAND"]+" -G host")
		cmd.Env = c.Env
		out, err := cmd.Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Errorf("%q: %v\n%s", path, err, exit.Stderr)
			continue
		}
		raw := strings.ReplaceAll(path, "%", "%%") // -G shows this one before it is expanded
		for _, want := range []string{"\nidentityfile " + raw + "/key\n", "\nuserknownhostsfile " + path + "/known\n", "\nbatchmode yes\n"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%q: ssh has no %q", path, want)
			}
		}
	}
}

// A fetch over a repository that borrows from one of an odd name.
func TestAlternatesOfOddNames(t *testing.T) {
	for _, name := range []string{"plain", "with space", `quo"te`, `back\slash`, "new\nline", "#hash", "ü"} {
		root := filepath.Join(t.TempDir(), name)
		run := func(c Command, stdin string) string {
			t.Helper()
			cmd := exec.Command(c.Args[0], c.Args[1:]...)
			cmd.Env, cmd.Stdin = c.Env, strings.NewReader(stdin)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%q: %v\n%s", c.Args, err, out)
			}
			return strings.TrimSpace(string(out))
		}
		from, to := filepath.Join(root, "from.git"), filepath.Join(root, "to.git")
		if err := os.MkdirAll(root, 0o700); err != nil {
			t.Fatal(err)
		}
		run(Init(from, cluster.SHA1, "refs/heads/main"), "")
		run(Init(to, cluster.SHA1, "refs/heads/main"), "")
		blob := run(Command{Args: []string{"git", "hash-object", "-w", "--stdin"}, Env: ReadHead(from).Env}, "contents")
		if err := os.MkdirAll(filepath.Join(to, "objects", "info"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, "objects", "info", "alternates"), []byte(Alternates(from)), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := run(CheckObjects(to), blob+"\n"); got != blob+" blob" {
			t.Errorf("%q: %s", name, got)
		}
	}
}
