package gitcmd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// A Remote is a repository on another host together with everything that
// decides how Git reaches it: by which protocol, as whom, and through what.
type Remote struct {
	URI      RemoteURI
	Identity Identity
	// KnownHosts is a file with the SSH host keys that are known. It must be
	// there; ssh adds the key of a host it meets for the first time.
	KnownHosts string
	Proxy      Proxy  // for HTTP
	CAInfo     string // PEM file with the authorities that HTTPS servers may have, instead of the system's
	// Home is an existing directory, and ClientConfig a client.toml or "", for
	// git-remote-cluster.
	Home, ClientConfig string
}

// An Identity is who a remote is shown; the zero value is nobody. At most one
// of its fields is set. All name files: no secret is part of a command.
type Identity struct {
	Key       string // an OpenSSH private key
	Password  string // a file of git-credential-store(1): a user with a password or a token
	DeviceDir string // this machine's device directory
}

// A Proxy is what curl takes from the variables of these names. A proxy's
// address must not hold a password.
type Proxy struct {
	HTTPSProxy, HTTPProxy, NoProxy string
}

// ListRefs prints the refs of the remote and where its HEAD points: lines of
// "OID\tref" and "ref: refs/heads/x\tHEAD".
func (r Remote) ListRefs() (Command, error) {
	// No repository's configuration may decide anything, such as that of the
	// directory the node was started in.
	return r.command(os.DevNull, nil, "ls-remote", "--symref", "--end-of-options", r.URI.String())
}

// Fetch fetches into the bare repository at dir the refs of which the refspecs
// come on standard input, one a line. It keeps one pack, of what the repository
// and its alternates did not have.
func (r Remote) Fetch(dir string) (Command, error) {
	return r.command(dir, fetching(), "fetch", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules",
		"--progress", "--stdin", "--end-of-options", r.URI.String())
}

// Alternates is what objects/info/alternates of a repository has to hold so
// that it borrows the objects of the one at dir.
func Alternates(dir string) string { return quotePath(filepath.Join(dir, "objects")) + "\n" }

// fetching is no variable: the helper and the hook would make it at each start, for
// nothing.
func fetching() []Setting {
	return append([]Setting{
		{"core.fsync", "none"}, // what is fetched is thrown away when it has been imported
		{"fetch.unpackLimit", "1"},
		{"fetch.fsckObjects", "true"},
	}, harmless("fetch")...)
}

// harmless lets pass the mistakes of old tools that receive-pack lets pass.
func harmless(service string) (settings []Setting) {
	for _, s := range receiving {
		if name, ok := strings.CutPrefix(s.Key, "receive.fsck."); ok {
			settings = append(settings, Setting{service + ".fsck." + name, s.Value})
		}
	}
	return settings
}

// command checks that everything fits together before it builds anything.
func (r Remote) command(dir string, settings []Setting, args ...string) (Command, error) {
	if err := r.check(); err != nil {
		return Command{}, err
	}
	p := r.URI.Protocol
	settings = slices.Concat(settings, []Setting{
		{"protocol." + string(p) + ".allow", "always"},
		{"transfer.credentialsInUrl", "die"},
	})
	var env []string
	switch {
	case p.isHTTP():
		settings = append(settings,
			Setting{"credential.helper", ""}, // none but the one that follows
			Setting{"http.lowSpeedLimit", "1000"}, Setting{"http.lowSpeedTime", "60"})
		if r.Identity.Password != "" {
			// Git gives the value to a shell.
			settings = append(settings, Setting{"credential.helper", "store --file=" + shellQuote(r.Identity.Password)})
		}
		if r.CAInfo != "" {
			settings = append(settings, Setting{"http.sslCAInfo", r.CAInfo})
		}
		env = r.Proxy.environment()
	case p == SSH:
		env = []string{"GIT_SSH_COMMAND=" + r.sshCommand(), "GIT_SSH_VARIANT=ssh"}
	case p == Cluster && r.Identity.DeviceDir != "":
		env = []string{"PHABRICATOR_AS_DEVICE=1", "GIT_CLUSTER_DEVICE_DIR=" + r.Identity.DeviceDir}
	}
	c := command(dir, settings, args...)
	if p == Cluster {
		c.Env = slices.DeleteFunc(c.Env, func(v string) bool { return strings.HasPrefix(v, "HOME=") })
		env = append(env, "HOME="+r.Home)
		if r.ClientConfig != "" {
			env = append(env, "GIT_CLUSTER_CONFIG="+r.ClientConfig)
		}
	}
	c.Env = append(c.Env, env...)
	return c, nil
}

func (r Remote) check() error {
	if r.URI.text == "" {
		return errors.New("no remote is named")
	}
	p, id := r.URI.Protocol, r.Identity
	if id.DeviceDir != "" && (id.Key != "" || id.Password != "") {
		return errors.New("the device's identity and a user's credential exclude each other")
	}
	switch {
	case id.Key != "" && id.Password != "":
		return errors.New("a key and a password exclude each other")
	case id.DeviceDir != "" && p != Cluster:
		// It proves who this machine is to its own cluster; another host could
		// only learn from it.
		return fmt.Errorf("the device's identity is for cluster addresses only, not for %s", p)
	case id.Key != "" && p != SSH:
		return fmt.Errorf("an SSH key is of no use for %s", p)
	case id.Password != "" && !p.isHTTP():
		return fmt.Errorf("a password is of no use for %s", p)
	case p == SSH && r.KnownHosts == "":
		return errors.New("no file of known hosts is named")
	case p == Cluster && r.Home == "":
		return errors.New("no home is named")
	}
	for _, file := range []string{id.Key, id.Password, id.DeviceDir, r.KnownHosts, r.CAInfo, r.Home, r.ClientConfig} {
		if file != "" && (!filepath.IsAbs(file) || strings.ContainsFunc(file, unicode.IsControl)) {
			return fmt.Errorf("the path %q is not absolute or has control characters", file)
		}
	}
	for _, file := range []string{id.Key, r.KnownHosts} {
		if strings.Contains(file, "${") {
			return fmt.Errorf("ssh would expand a variable in the path %q", file)
		}
	}
	return r.Proxy.check()
}

// sshCommand is the ssh that Git runs, through a shell. It depends on no
// configuration and no agent, asks nothing, and remembers a host it meets for the first
// time; a host whose key has changed is refused.
func (r Remote) sshCommand() string {
	identity := "none"
	if r.Identity.Key != "" {
		identity = sshPath(r.Identity.Key)
	}
	words := []string{"ssh", "-F", os.DevNull}
	for _, option := range []string{
		"BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "IdentityFile=" + identity,
		"UserKnownHostsFile=" + sshPath(r.KnownHosts), "GlobalKnownHostsFile=" + os.DevNull,
		"StrictHostKeyChecking=accept-new", "UpdateHostKeys=no",
		"ConnectTimeout=20", "ServerAliveInterval=15", "ServerAliveCountMax=4",
	} {
		words = append(words, "-o", shellQuote(option))
	}
	return strings.Join(words, " ")
}

// sshPath quotes a path for a line of ssh_config(5), which splits at blanks and
// expands "%".
func sshPath(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(path) + `"`
}

// shellQuote makes one word of s for a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (p Proxy) check() error {
	for _, address := range []string{p.HTTPSProxy, p.HTTPProxy} {
		if strings.Contains(address, "@") {
			return errors.New("the address of the HTTP proxy holds a user or a password; such a proxy is not supported")
		}
	}
	return nil
}

// environment spells the variables as curl reads them; of http_proxy it reads
// no other spelling.
func (p Proxy) environment() (env []string) {
	for name, value := range map[string]string{"https_proxy": p.HTTPSProxy, "http_proxy": p.HTTPProxy, "no_proxy": p.NoProxy} {
		if value != "" {
			env = append(env, name+"="+value)
		}
	}
	slices.Sort(env)
	return env
}
