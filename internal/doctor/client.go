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
	"strings"
	"time"

	"golang.org/x/crypto/ssh/agent"

	"gitcluster/internal/config"
	"gitcluster/internal/credential"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
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
		d.keyFile(Fail, c.Identity)
	}
	if !usual {
		return
	}
	found := 0
	if socket := d.Getenv("SSH_AUTH_SOCK"); socket != "" {
		n, err := agentKeys(ctx, socket)
		if err != nil {
			d.fault(Warn, "ssh agent", err, "start it, or unset SSH_AUTH_SOCK")
		} else {
			d.say(OK, "ssh agent", "holds %d keys", n)
		}
		found += n
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return
	}
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		path := filepath.Join(home, ".ssh", name)
		if _, err := os.Stat(path); err == nil {
			found++
			d.keyFile(Warn, path)
		}
	}
	if found == 0 {
		d.tell(Warn, "ssh keys", "make one with ssh-keygen -t ed25519, and give the .pub file to the cluster's operator", "there is neither an agent's key nor one in %s", filepath.Join(home, ".ssh"))
	}
}

// keyFile looks at a private key's file without reading it.
func (d *Doctor) keyFile(level Level, path string) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		d.fault(level, "ssh key", err, "correct \"identity\" in "+config.ClientPath())
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		d.tell(Warn, "ssh key", "chmod 600 "+path, "%s can be used by other accounts (mode %#o)", path, info.Mode().Perm())
	default:
		d.say(OK, "ssh key", "%s", path)
	}
}

func agentKeys(ctx context.Context, socket string) (int, error) {
	dialer := net.Dialer{Timeout: patience / 2}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience / 2))
	keys, err := agent.NewClient(conn).List()
	return len(keys), err
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
