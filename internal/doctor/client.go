package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"gitcluster/internal/client"
	"gitcluster/internal/config"
	"gitcluster/internal/credential"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/sshclient"
	"gitcluster/internal/sshconfig"
)

// oldestGit is the first that a node can use, and that the tests are run with.
const oldestGit = "2.36"

// programs looks at what Git needs to find.
func (d *Doctor) programs(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := new(gitexec.Runner).Output(ctx, gitcmd.Version(), nil)
	version := strings.TrimPrefix(strings.TrimSpace(string(out)), "git version ")
	switch {
	case err != nil:
		d.fault(Fail, "git", err, "install Git "+oldestGit+" or newer")
	case !atLeast(version, 2, 36):
		level := Warn
		if d.Data != "" {
			level = Fail // a node's syncing to disk depends on it
		}
		d.tell(level, "git", "install Git "+oldestGit+" or newer", "version %s", version)
	default:
		d.say(OK, "git", "version %s", version)
	}
	for _, name := range []string{"git-remote-cluster", "git-credential-device"} {
		d.program(ctx, name)
	}
}

func (d *Doctor) program(ctx context.Context, name string) {
	path, err := gitexec.Find(name)
	if err != nil {
		do := "install it, and add its directory to PATH"
		if self, err := os.Executable(); err == nil {
			do = "add the directory it was installed to to PATH: this program's is " + filepath.Dir(self)
		}
		d.tell(Fail, name, do, "Git does not find it in PATH")
		return
	}
	out, err := new(gitexec.Runner).Output(ctx, gitcmd.Command{Args: []string{path, "--version"}, Env: d.Environ}, nil)
	version, ours := strings.CutPrefix(strings.TrimSpace(string(out)), name+" ")
	switch {
	case err != nil:
		d.fault(Fail, name, fmt.Errorf("%s: %w", path, err), "install it again")
	case !ours:
		d.tell(Fail, name, "move it out of PATH, or install this one before it", "%s is another program", path)
	case version != d.Version:
		d.tell(Warn, name, "install the programs of one release, and remove the others from PATH", "%s is version %s, and this program %s", path, version, d.Version)
	default:
		d.say(OK, name, "%s, version %s", path, version)
	}
}

// atLeast compares a version such as "2.39.5.windows.1". One that has no number, as
// of a development build, passes.
func atLeast(version string, major, minor int) bool {
	var x, y int
	if n, _ := fmt.Sscanf(version, "%d.%d", &x, &y); n < 2 {
		return true
	}
	return x > major || x == major && y >= minor
}

// client looks at the configuration, at the keys, and at the nodes.
func (d *Doctor) client(ctx context.Context) {
	path := config.ClientPath()
	switch {
	case errors.Is(d.Client, fs.ErrNotExist):
		level := Warn
		if d.Data != "" {
			level = OK // a node's own account needs none
		}
		d.tell(level, "configuration", "to use cluster:: addresses: git cluster use ADDRESS-OF-A-NODE", "there is no %s", path)
	case d.Client != nil:
		d.fault(Fail, "configuration", d.Client, "correct the file")
	default:
		d.say(OK, "configuration", "%s, clusters: %s", path, strings.Join(d.Clusters, ", "))
	}
	if d.Client == nil {
		d.keys(ctx)
	}
	d.device()
	for _, name := range d.Clusters {
		d.cluster(ctx, name)
	}
}

// keys looks for something to log in with. Whether a node accepts it is seen
// when the node is asked.
func (d *Doctor) keys(ctx context.Context) {
	if credential.AsDevice(d.Getenv) {
		return
	}
	conf, err := config.LoadClient(config.ClientPath())
	if err != nil {
		return // reported already
	}
	seen := map[string]bool{}
	usual := false
	for _, name := range d.Clusters {
		c := conf.Clusters[name]
		if c == nil {
			continue
		}
		if c.Identity == "" {
			usual = true
			continue
		}
		if !seen[c.Identity] {
			seen[c.Identity] = true
			d.keyFile(Fail, c.Identity)
		}
	}
	if program := client.OtherProgram(ctx, d.Getenv); usual && program != "" {
		d.say(OK, "ssh keys", "%s connects, and has its own", program)
	} else if usual {
		d.usualKeys(conf, seen)
	}
}

// usualKeys are those that ssh would use for the nodes: what ssh_config names, or else
// the agent's and those at their usual places.
func (d *Doctor) usualKeys(conf *config.Client, seen map[string]bool) {
	home, err := os.UserHomeDir()
	if err != nil {
		return
	}
	places := []string{filepath.Join(home, ".ssh")}
	agents := map[string]bool{}
	found := 0
	files := sshconfig.New(d.Getenv)
	for _, name := range d.Clusters {
		c := conf.Clusters[name]
		if c == nil || c.Identity != "" {
			continue
		}
		for _, n := range c.Nodes {
			host, _, err := net.SplitHostPort(n.Addr())
			if err != nil {
				continue
			}
			h, err := files.Lookup(sshconfig.Target{Host: host, User: c.User, DefaultUser: config.DefaultUser})
			if err != nil {
				d.fault(Fail, "ssh configuration", err, "correct it")
				return
			}
			if len(h.Beyond) > 0 {
				return // ssh itself is run, and knows more ways
			}
			paths := h.IdentityFiles
			if paths == nil {
				for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk"} {
					paths = append(paths, filepath.Join(home, ".ssh", name))
				}
			} else {
				places = append(places, paths...)
			}
			for _, path := range paths {
				if _, err := os.Stat(path); err != nil {
					continue
				}
				found++
				if !seen[path] {
					seen[path] = true
					d.keyFile(Warn, path)
				}
			}
			socket := h.IdentityAgent
			if socket == "" {
				socket = d.Getenv("SSH_AUTH_SOCK")
			}
			if socket == "" || socket == sshclient.AgentNone || agents[socket] {
				continue
			}
			agents[socket] = true
			held, err := sshclient.AgentKeys(socket, patience/2)
			if err != nil {
				d.fault(Warn, "ssh agent", err, "start it, or unset SSH_AUTH_SOCK")
			} else {
				d.say(OK, "ssh agent", "holds %d keys", held)
			}
			found += held
		}
	}
	if found == 0 {
		slices.Sort(places)
		d.tell(Warn, "ssh keys", "make one with ssh-keygen -t ed25519, and give the .pub file to the cluster's operator",
			"there is neither an agent's key nor one in %s", strings.Join(slices.Compact(places), ", "))
	}
}

// keyFile looks at a private key's file without reading it.
func (d *Doctor) keyFile(level Level, path string) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		d.fault(level, "ssh key", err, "correct \"identity\" in "+config.ClientPath())
	case strings.HasSuffix(path, ".pub"):
		d.say(OK, "ssh key", "%s, whose private key an agent has to hold", path)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		d.tell(Warn, "ssh key", "chmod 600 "+path, "%s can be used by other accounts (mode %#o)", path, info.Mode().Perm())
	default:
		d.say(OK, "ssh key", "%s", path)
	}
}

// device looks at this machine's own identity, if it is asked for.
func (d *Doctor) device() {
	if !credential.AsDevice(d.Getenv) {
		return
	}
	dir := credential.Dir(d.Getenv)
	id, err := credential.Load(dir)
	if err == nil {
		err = credential.Conflict(d.Getenv)
	}
	if err != nil {
		d.fault(Fail, "device", err, "unset "+credential.EnvAsDevice+" to act as a person")
		return
	}
	d.say(OK, "device", "%s of the cluster %q, key %s", id.Name, id.Cluster, id.Fingerprint())
}
