package sshconfig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/sshclient/sshtest"
)

// write makes an account with files in its ~/.ssh.
func write(t *testing.T, files map[string]string) *Config {
	t.Helper()
	c := &Config{Home: t.TempDir(), Getenv: func(name string) string {
		return map[string]string{"USER": "me", "SSH_AUTH_SOCK": "/sock", "MY_AGENT": "/mine"}[name]
	}}
	for name, text := range files {
		path := filepath.Join(c.Home, ".ssh", name)
		if name == "system" {
			path = filepath.Join(c.Home, "etc", "ssh_config")
			c.System = path
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func lookup(t *testing.T, c *Config, target Target) *Host {
	t.Helper()
	h, err := c.Lookup(target)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestSettings(t *testing.T) {
	home := func(c *Config, name string) string { return filepath.Join(c.Home, ".ssh", name) }
	for name, c := range map[string]struct {
		text string
		want func(c *Config, h *Host)
	}{
		"nothing":  {"", func(c *Config, h *Host) {}},
		"names":    {"HostName Real.Example\nPort 2201\nUser bob", func(c *Config, h *Host) { h.Name, h.Port, h.User, h.UserSet = "real.example", 2201, "bob", true }},
		"token":    {"HostName %h.example", func(c *Config, h *Host) { h.Name = "node.example" }},
		"first":    {"Port 1\nPort 2\nHost *\nPort 3", func(c *Config, h *Host) { h.Port = 1 }},
		"equals":   {"Port=3\nUser = \"a b\" # it is odd", func(c *Config, h *Host) { h.Port, h.User, h.UserSet = 3, "a b", true }},
		"case":     {"\tpOrT 3\r\n  # Port 4", func(c *Config, h *Host) { h.Port = 3 }},
		"pattern":  {"Host n?de !nod*\nPort 1\nHost n?de !x*\nPort 2", func(c *Config, h *Host) { h.Port = 2 }},
		"question": {"Host node?\nPort 1", func(c *Config, h *Host) {}},
		"keys": {"IdentityFile ~/.ssh/a\nIdentityFile %d/%u-%h-%p-%r-%n-%%\nIdentityFile ${MY_AGENT}.key\nIdentityFile ~/.ssh/a\nCertificateFile ~/c\nIdentitiesOnly yes", func(c *Config, h *Host) {
			h.IdentityFiles = []string{home(c, "a"), c.Home + "/me-node-22-git-node-%", "/mine.key"}
			h.CertificateFiles, h.IdentitiesOnly = []string{c.Home + "/c"}, true
		}},
		"no keys":         {"IdentityFile none", func(c *Config, h *Host) { h.IdentityFiles = []string{} }},
		"agent":           {"IdentityAgent ~/agent.sock\nAddKeysToAgent yes", func(c *Config, h *Host) { h.IdentityAgent, h.AddKeysToAgent = c.Home+"/agent.sock", true }},
		"agent by name":   {"IdentityAgent SSH_AUTH_SOCK", func(c *Config, h *Host) { h.IdentityAgent = "/sock" }},
		"agent variable":  {"IdentityAgent $MY_AGENT", func(c *Config, h *Host) { h.IdentityAgent = "/mine" }},
		"agent not there": {"IdentityAgent $NO_AGENT", func(c *Config, h *Host) { h.IdentityAgent = "none" }},
		"no agent":        {"IdentityAgent NONE", func(c *Config, h *Host) { h.IdentityAgent = "none" }},
		"known hosts": {"UserKnownHostsFile ~/k1 /k2\nGlobalKnownHostsFile none\nHostKeyAlias a\nStrictHostKeyChecking accept-new\nHashKnownHosts yes\nBatchMode yes", func(c *Config, h *Host) {
			h.UserKnownHosts, h.GlobalKnownHosts = []string{c.Home + "/k1", "/k2"}, []string{}
			h.HostKeyAlias, h.StrictHostKeys, h.HashKnownHosts, h.Batch = "a", "accept-new", true, true
		}},
		"off":   {"StrictHostKeyChecking off", func(c *Config, h *Host) { h.StrictHostKeys = "no" }},
		"times": {"ConnectTimeout 1m30s\nAddressFamily inet6", func(c *Config, h *Host) { h.ConnectTimeout, h.AddressFamily = 90*time.Second, "inet6" }},
		"any":   {"ConnectTimeout none\nAddressFamily any\nAddressFamily inet", func(c *Config, h *Host) {}},
		"jumps": {"ProxyJump a,bob@b:23,ssh://c:24,[::1]:25,[::2]\nProxyCommand x", func(c *Config, h *Host) {
			h.Jumps = []Target{{Host: "a"}, {Host: "b", User: "bob", Port: 23}, {Host: "c", Port: 24}, {Host: "::1", Port: 25}, {Host: "::2"}}
		}},
		"a jump's user": {"HostName %h.example\nPort 7\nProxyJump %r@a,x-%n-%h-%p-%%@b", func(c *Config, h *Host) {
			h.Name, h.Port = "node.example", 7
			h.Jumps = []Target{{Host: "a", User: "git"}, {Host: "b", User: "x-node-node.example-7-%"}}
		}},
		"another token": {"ProxyJump %i@a", func(c *Config, h *Host) {
			h.Jumps, h.Beyond = []Target{{Host: "a", User: "%i"}}, []string{`ProxyJump "%i@a"`}
		}},
		"a token at the end": {"ProxyJump x%@a", func(c *Config, h *Host) {
			h.Jumps, h.Beyond = []Target{{Host: "a", User: "x%"}}, []string{`ProxyJump "x%@a"`}
		}},
		"user by a token":  {"User %u", func(c *Config, h *Host) { h.User, h.UserSet, h.Beyond = "%u", true, []string{`User "%u"`} }},
		"user by variable": {"User ${X}", func(c *Config, h *Host) { h.User, h.UserSet, h.Beyond = "${X}", true, []string{`User "${X}"`} }},
		"no jumps":         {"ProxyJump none\nProxyJump a\nProxyCommand x", func(c *Config, h *Host) {}},
		"algorithms": {"HostKeyAlgorithms +x\nCiphers a,b\nMACs -c\nKexAlgorithms ^d", func(c *Config, h *Host) {
			h.HostKeyAlgorithms, h.Ciphers, h.MACs, h.KexAlgorithms = "+x", "a,b", "-c", "^d"
		}},
		"ignored":         {"ForwardAgent yes\nControlMaster auto\nControlPath none\nSendEnv LANG\nGSSAPIAuthentication no\nPKCS11Provider none\nLogLevel DEBUG", func(c *Config, h *Host) {}},
		"another's login": {"ControlPath ~/%C", func(c *Config, h *Host) { h.IfRefused = []string{"ControlPath (~/.ssh/config line 1)"} }},
		"how keys are checked": {"RequiredRSASize 4096\nRSAMinSize 1\nCASignatureAlgorithms -x", func(c *Config, h *Host) {
			h.RequiredRSABits, h.CASignatureAlgorithms = 4096, "-x"
		}},
		"its older name":       {"RSAMinSize 2048\nRequiredRSASize 1", func(c *Config, h *Host) { h.RequiredRSABits = 2048 }},
		"bad size":             {"RequiredRSASize many", func(c *Config, h *Host) { h.Beyond = []string{"RequiredRSASize (~/.ssh/config line 1)"} }},
		"passphrases kept":     {"UseKeychain yes\nUseKeychain no", func(c *Config, h *Host) { h.UseKeychain = true }},
		"passphrases not kept": {"UseKeychain no\nUseKeychain yes", func(c *Config, h *Host) {}},
		"unknown":              {"IgnoreUnknown Use*,Odd\nOdd 1\nUsesThis 2", func(c *Config, h *Host) {}},

		"command":    {"Host other\nProxyCommand a\nHost *\nProxyCommand nc %h %p\nProxyJump a", func(c *Config, h *Host) { h.Beyond = []string{"ProxyCommand (~/.ssh/config line 4)"} }},
		"no command": {"ProxyCommand none\nProxyCommand x", func(c *Config, h *Host) {}},
		"beyond": {"PKCS11Provider /lib/x.so\nCanonicalizeHostname yes\nRevokedHostKeys /r", func(c *Config, h *Host) {
			h.Beyond = []string{"PKCS11Provider (~/.ssh/config line 1)", "CanonicalizeHostname (~/.ssh/config line 2)", "RevokedHostKeys (~/.ssh/config line 3)"}
		}},
		"tickets":        {"GSSAPIAuthentication yes", func(c *Config, h *Host) { h.Beyond = []string{"GSSAPIAuthentication (~/.ssh/config line 1)"} }},
		"no keys at all": {"PreferredAuthentications password", func(c *Config, h *Host) { h.Beyond = []string{"PreferredAuthentications (~/.ssh/config line 1)"} }},
		"new setting":    {"FutureSetting 1", func(c *Config, h *Host) { h.Beyond = []string{"FutureSetting (~/.ssh/config line 1)"} }},
		"bad value":      {"Port 99999", func(c *Config, h *Host) { h.Beyond = []string{"Port (~/.ssh/config line 1)"} }},
		"bad quotes":     {"User \"x", func(c *Config, h *Host) { h.Beyond = []string{"User (~/.ssh/config line 1)"} }},
		"bad jump":       {"ProxyJump -oProxyCommand=id", func(c *Config, h *Host) { h.Beyond = []string{"ProxyJump (~/.ssh/config line 1)"} }},
		"bad token":      {"IdentityFile ~/%C", func(c *Config, h *Host) { h.IdentityFiles, h.Beyond = []string{"~/%C"}, []string{`%C in "~/%C"`} }},
		"another's home": {"IdentityFile ~bob/x", func(c *Config, h *Host) {
			h.IdentityFiles, h.Beyond = []string{"~bob/x"}, []string{`another account's home in "~bob/x"`}
		}},

		"match":          {"HostName real\nMatch host re* originalhost node user git localuser me\nPort 1", func(c *Config, h *Host) { h.Name, h.Port = "real", 1 }},
		"match not":      {"Match !host node\nPort 1\nMatch host x,n* !user git\nPort 2\nMatch all\nPort 3", func(c *Config, h *Host) { h.Port = 3 }},
		"match final":    {"Match final host node.example\nPort 1\nMatch all\nHostName node.example\nPort 2\nHost x", func(c *Config, h *Host) { h.Name, h.Port = "node.example", 2 }},
		"match later":    {"Match final host node.example\nPort 1\nHost *\nHostName node.example", func(c *Config, h *Host) { h.Name, h.Port = "node.example", 1 }},
		"match exec":     {"Match host other exec \"a b\"\nPort 1\nMatch host node exec \"a b\"\nPort 2", func(c *Config, h *Host) { h.Beyond = []string{"Match (~/.ssh/config line 3)"} }},
		"match nonsense": {"Match\nPort 1\nMatch host\nPort 2", func(c *Config, h *Host) { h.Port, h.Beyond = 1, []string{"Match (~/.ssh/config line 3)"} }},
	} {
		t.Run(name, func(t *testing.T) {
			config := write(t, map[string]string{"config": c.text})
			want := &Host{Name: "node", Port: 22, User: "git"}
			if c.want(config, want); name == "match" || name == "match not" {
				// "Match user" sees who logs in, if somebody says so.
				want.User = "git"
			}
			target := Target{Host: "node", DefaultUser: "git"}
			if strings.HasPrefix(name, "match") {
				target.User = "git"
			}
			if got := lookup(t, config, target); !reflect.DeepEqual(got, want) {
				t.Errorf("%q:\n got %+v\nwant %+v", c.text, got, want)
			}
		})
	}
}

func TestTheTargetGoesBeforeTheFiles(t *testing.T) {
	c := write(t, map[string]string{"config": "User bob\nPort 1", "system": "Port 2\nUser eve\nConnectTimeout 7\nGSSAPIAuthentication yes"})
	h := lookup(t, c, Target{Host: "h", User: "alice", Port: 9, DefaultUser: "git"})
	if h.User != "alice" || h.Port != 9 || h.UserSet || h.ConnectTimeout != 7*time.Second || h.Beyond != nil {
		t.Errorf("%+v", h)
	}
	if h = lookup(t, c, Target{Host: "h"}); h.User != "bob" || h.Port != 1 || !h.UserSet {
		t.Errorf("%+v", h)
	}
	if h = lookup(t, write(t, nil), Target{Host: "H.Example"}); h.User != "me" || h.Name != "h.example" {
		t.Errorf("without files: %+v", h)
	}
}

func TestInclude(t *testing.T) {
	c := write(t, map[string]string{
		"config":   "Include *.conf missing\nHost other\nInclude sub/x\nHost node\nInclude ~/.ssh/sub/x\nPort 9",
		"a.conf":   "Host nodes\nPort 1\nHost node\nUser bob",
		"b.conf":   "User eve\nHost zzz\nConnectTimeout 1",
		"sub/x":    "ConnectTimeout 5\nHost *\nPort 5",
		"outer":    "",
		"sub/y":    "",
		"sub/link": "",
	})
	h := lookup(t, c, Target{Host: "node"})
	if h.User != "bob" || h.ConnectTimeout != 5*time.Second || h.Port != 5 {
		t.Errorf("%+v", h)
	}
	if h := lookup(t, c, Target{Host: "third"}); h.User != "eve" || h.Port != 22 || h.ConnectTimeout != 0 {
		t.Errorf("a host that the including block does not mean: %+v", h)
	}
	// What depends on the connection is not looked for.
	c = write(t, map[string]string{"config": "Include %d/x"})
	if h := lookup(t, c, Target{Host: "node"}); len(h.Beyond) != 1 {
		t.Errorf("%+v", h)
	}
}

func TestHostileFiles(t *testing.T) {
	for name, c := range map[string]struct {
		files  map[string]string
		change func(c *Config) error
		want   string
	}{
		"itself":   {map[string]string{"config": "Include config"}, nil, "more than 16 deep"},
		"each two": {map[string]string{"config": "Include a a2", "a": "Include a a2", "a2": "Include a2 a"}, nil, "more than"},
		"huge":     {map[string]string{"config": strings.Repeat("# x\n", maxBytes/4+1)}, nil, "larger than"},
		"many":     {map[string]string{"config": "Include big big big", "big": strings.Repeat(" \n", maxBytes/5)}, nil, "larger than"},
		"a device": {map[string]string{"config": "Include /dev/zero"}, nil, "/dev/zero is not a file"},
		"a pipe":   {map[string]string{"config": "Include fifo"}, func(c *Config) error { return mkfifo(filepath.Join(c.Home, ".ssh", "fifo")) }, "fifo is not a file"},
		"pattern":  {map[string]string{"config": "Include [x"}, nil, "Include"},
	} {
		t.Run(name, func(t *testing.T) {
			config := write(t, c.files)
			if c.change != nil {
				if err := c.change(config); err != nil {
					t.Skip(err)
				}
			}
			h, err := config.Lookup(Target{Host: "h"})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(cluster.Hint(err), "GIT_SSH_COMMAND=ssh") {
				t.Errorf("%+v, %v (hint %q); want %q", h, err, cluster.Hint(err), c.want)
			}
		})
	}
	// Whether to believe a file that others may write is left to ssh.
	for _, name := range []string{"config", "inner"} {
		c := write(t, map[string]string{"config": "Include inner\nPort 1", "inner": "User bob"})
		if err := os.Chmod(filepath.Join(c.Home, ".ssh", name), 0o664); err != nil {
			t.Skip(err)
		}
		want := "~/.ssh/" + name + ", which belongs to somebody else or others may write"
		if h := lookup(t, c, Target{Host: "h"}); len(h.Beyond) != 1 || h.Beyond[0] != want {
			t.Errorf("%s: %q, want %q", name, h.Beyond, want)
		}
	}
	// A file that may not be read is none, as it is to ssh; an empty one is no mistake.
	c := write(t, map[string]string{"config": "Port 1"})
	if os.Geteuid() != 0 {
		os.Chmod(filepath.Join(c.Home, ".ssh", "config"), 0)
		if h := lookup(t, c, Target{Host: "h"}); h.Port != 22 {
			t.Errorf("%+v", h)
		}
	}
	lookup(t, write(t, map[string]string{"config": "Include /dev/null\n\x00\xff\nHost\n= =\n\"\n"}), Target{Host: "h"})
}

// Red Hat's systems give every host the algorithms of a policy. Nothing in that is
// beyond this module's client, or it would never be used there.
func TestCryptoPolicy(t *testing.T) {
	c := write(t, map[string]string{
		"system": "# The system's.\nInclude ssh_config.d/*.conf\n#   Host *\n",
		"../etc/ssh_config.d/50-redhat.conf": `# For more information, see manual page for update-crypto-policies(8)
Match final all
	# Follow system-wide Crypto Policy, if defined:
	Include policies/openssh.config

	GSSAPIAuthentication yes

# If this option is set to yes then remote X11 clients will have full access
# to the original X11 display. As virtually no X11 client supports the untrusted
# mode correctly we set this to yes.
	ForwardX11Trusted yes
`,
		"../etc/policies/openssh.config": sshtest.CryptoPolicy,
	})
	h := lookup(t, c, Target{Host: "node"})
	if h.Beyond != nil || h.IfRefused != nil || h.RequiredRSABits != 2048 ||
		!strings.HasPrefix(h.CASignatureAlgorithms, "ecdsa-sha2-nistp256,sk-ecdsa-") || !strings.HasPrefix(h.Ciphers, "aes256-gcm@openssh.com,") ||
		!strings.HasSuffix(h.MACs, ",hmac-sha2-512") || !strings.HasPrefix(h.KexAlgorithms, "mlkem768x25519-sha256,") || !strings.Contains(h.HostKeyAlgorithms, ",ssh-ed25519-cert-v01@openssh.com,") {
		t.Errorf("%+v", h)
	}
}

// TestAsOpenSSH compares with what the ssh on this machine makes of a file.
func TestAsOpenSSH(t *testing.T) {
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("there is no ssh on this machine")
	}
	text := `
Host a1 !a2 b*
  HostName %h.example
  Port = 2201
  IdentityFile "/k/with space"
  IdentityFile /k/two
Host a* !a3
  User bob
  ProxyJump j1,u@j2:23
Match host *.example user bob
  ConnectTimeout 2m
  HostKeyAlias alias
Match originalhost a2,c3 !user bob
  StrictHostKeyChecking no
Match final host b?.example
  IdentitiesOnly yes
Host *
  User last # comment
  Port 99
  ConnectTimeout 3
  StrictHostKeyChecking accept-new
  AddressFamily inet
  UserKnownHostsFile /k/1 "/k/2 3"
  IdentityFile /k/all
`
	c := write(t, map[string]string{"config": text})
	yesNo := map[bool]string{true: "yes", false: "no"}
	for _, host := range []string{"a1", "a2", "a3", "b1", "b12", "c3", "B1"} {
		out, err := exec.Command(ssh, "-G", "-F", filepath.Join(c.Home, ".ssh", "config"), host).Output()
		if err != nil {
			t.Fatal(err)
		}
		theirs := map[string]string{}
		for line := range strings.Lines(string(out)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if key == "identityfile" && theirs[key] != "" {
				value = theirs[key] + "|" + value
			}
			theirs[key] = value
		}
		h := lookup(t, c, Target{Host: host})
		var jumps []string
		for _, j := range h.Jumps {
			s := j.Host
			if j.User != "" {
				s = j.User + "@" + s
			}
			if j.Port != 0 {
				s += fmt.Sprintf(":%d", j.Port)
			}
			jumps = append(jumps, s)
		}
		strict := h.StrictHostKeys
		if strict == "no" {
			strict = theirs["stricthostkeychecking"] // "false" in newer versions
			if strict != "no" && strict != "false" {
				t.Errorf("%s: StrictHostKeyChecking is %q there", host, strict)
			}
		}
		ours := map[string]string{
			"hostname": h.Name, "port": fmt.Sprint(h.Port), "user": h.User, "identityfile": strings.Join(h.IdentityFiles, "|"),
			"proxyjump": strings.Join(jumps, ","), "connecttimeout": fmt.Sprint(int(h.ConnectTimeout.Seconds())), "hostkeyalias": h.HostKeyAlias,
			"stricthostkeychecking": strict, "identitiesonly": yesNo[h.IdentitiesOnly], "addressfamily": h.AddressFamily,
			"userknownhostsfile": strings.Join(h.UserKnownHosts, " "),
		}
		for key, our := range ours {
			if their := theirs[key]; our != their {
				t.Errorf("%s: %s is %q here and %q there", host, key, our, their)
			}
		}
	}
}

func FuzzLookup(f *testing.F) {
	f.Add("Host a\nPort 1", "a")
	f.Add("Match host \"x\" exec 'y\nProxyJump a,[b]:c\nIdentityFile ~/${X}%", "b")
	f.Fuzz(func(t *testing.T, text, host string) {
		if runtime.GOOS == "windows" || strings.Contains(strings.ToLower(text), "include") {
			t.Skip()
		}
		c := &Config{Getenv: func(string) string { return "" }}
		file := &file{}
		for i, raw := range strings.Split(text, "\n") {
			if l, ok := parseLine(raw); ok {
				l.number = i + 1
				file.lines = append(file.lines, l)
			}
		}
		c.once.Do(func() { c.tree = append(c.tree, file) })
		h, err := c.Lookup(Target{Host: host, User: "u"})
		if err != nil || h.Port <= 0 || h.Port > 65535 || h.User != "u" {
			t.Fatalf("%q: %+v, %v", text, h, err)
		}
	})
}
