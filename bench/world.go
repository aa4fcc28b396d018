package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/clustertest"
	"gitcluster/internal/sshclient"
)

// A bench is what a run has started, and what it has found.
type bench struct {
	scale
	report *report

	work    string // removed at the end
	cluster *clustertest.Cluster
	key     string // file of the private key of the one who measures
	sshd    *sshd  // nil where it cannot be had; unable says why
	unable  string
	masters map[string]string          // repositories as they are made, by recipe
	pusher  *pusher                    // of Small and ManyRefs
	fresh   []float64                  // the nodes' memory when they had just started, in MB
	kept    map[string]*sshclient.Conn // by node, for what is not measured
	dirs    atomic.Int64
}

// The repositories, the same on all that are compared.
const (
	repoQuiet = "quiet" // nobody pushes to it before the last row
	repoSmall = "small"
	repoRefs  = "refs" // the same with many refs
	repoBig   = "big"
)

func (b *bench) recipes() map[string]recipe {
	return map[string]recipe{repoQuiet: b.Small, repoSmall: b.Small, repoRefs: b.ManyRefs, repoBig: b.Big}
}

// open makes the repositories and starts the servers. The caller must close b, on an
// error, too.
func (b *bench) open(ctx context.Context, root, cache string) (err error) {
	if b.work, err = os.MkdirTemp("", "gc-bench-"); err != nil {
		return err
	}
	if err := os.Chmod(b.work, 0o755); err != nil { // another account has its home there
		return err
	}
	if b.report.Machine, err = lookAround(ctx, root, b.work); err != nil {
		return err
	}
	b.progress("repositories")
	b.masters, b.kept = map[string]string{}, map[string]*sshclient.Conn{}
	for name, r := range b.recipes() {
		if b.masters[name], err = r.make(ctx, cache); err != nil {
			return fmt.Errorf("make the repository %s: %w", name, err)
		}
	}
	if b.pusher, err = b.Small.newPusher(ctx, b.masters[repoSmall], filepath.Join(b.work, "pusher"), 0, 8*b.Fast+100); err != nil {
		return fmt.Errorf("make commits to push: %w", err)
	}
	if err := b.startCluster(ctx); err != nil {
		return err
	}
	if err := b.startOthers(ctx); err != nil {
		return err
	}
	size, err := packedSize(b.masters[repoBig])
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s\nlarge repository: %d MB packed; %d refs in the one with many\n", b.report.Machine, size/1_000_000, b.ManyRefs.Refs)
	return nil
}

// progress says what is being done, and when that began.
func (b *bench) progress(what string) {
	fmt.Fprintf(os.Stderr, "%4.0f s  %s\n", time.Since(b.report.Date).Seconds(), what)
}

// startCluster builds the programs as install.sh does, starts three nodes, and gives
// them the repositories, on every node and packed as after a while of use.
func (b *bench) startCluster(ctx context.Context) error {
	b.progress("programs")
	bin := filepath.Join(b.work, "bin")
	err := os.Mkdir(bin, 0o755)
	if err == nil {
		err = clustertest.Build(ctx, bin, "-trimpath", "-buildvcs=false", "-ldflags", "-s -w")
	}
	if err == nil {
		b.progress("cluster")
		b.cluster, err = clustertest.New(3, func(c *clustertest.Cluster) { c.Bin = bin })
	}
	if err != nil {
		return err
	}
	if b.fresh, _, err = b.nodesMemory(); err != nil {
		return err
	}
	b.key = strings.TrimSuffix(b.cluster.Admin.PublicKey(), ".pub")
	b.progress("imports")
	for name, r := range b.recipes() {
		err := b.admin(ctx, "repo", "import", clusterName(name), b.masters[name])
		if err == nil {
			err = b.inSync(ctx, name)
		}
		if err == nil && r != b.Small { // of which all is in one pack already
			err = b.admin(ctx, "maintain", clusterName(name), "--full")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// admin runs a command as the cluster's administrator.
func (b *bench) admin(ctx context.Context, words ...string) error {
	return b.cluster.Admin.RunContext(ctx, "", "", append([]string{"git-cluster"}, words...)...).Err()
}

// inSync waits until every node shows the newest version of the repository.
func (b *bench) inSync(ctx context.Context, name string) error {
	for _, n := range b.cluster.Nodes {
		conn := b.kept[n.Name]
		if conn == nil {
			var err error
			if conn, err = b.connect(ctx, n); err != nil {
				return err
			}
			b.kept[n.Name] = conn
		}
		if _, err := command(ctx, conn, "cluster-sync "+clusterName(name)); err != nil {
			return err
		}
	}
	return nil
}

func clusterName(name string) string { return "bench/" + name }

// startOthers starts what the cluster is compared with.
func (b *bench) startOthers(ctx context.Context) (err error) {
	b.progress("OpenSSH")
	for name, master := range b.masters {
		if err := os.CopyFS(filepath.Join(b.work, "file", name+".git"), os.DirFS(master)); err != nil {
			return err
		}
	}
	home := filepath.Join(b.work, "ssh")
	if err := os.Mkdir(home, 0o755); err != nil {
		return err
	}
	b.sshd, err = newSSHD(ctx, home, b.key)
	if errors.Is(err, errUnable) {
		b.unable = err.Error()
		b.report.skip("OpenSSH", b.unable)
		return nil
	}
	if err != nil {
		return err
	}
	for _, way := range []string{"cold", "warm"} {
		for name, master := range b.masters {
			if err := os.CopyFS(filepath.Join(home, way+"-repos", name+".git"), os.DirFS(master)); err != nil {
				return err
			}
		}
		if err := b.sshd.give(filepath.Join(home, way+"-repos")); err != nil {
			return err
		}
	}
	return nil
}

// close ends everything and removes it.
func (b *bench) close() error {
	var errs []error
	for _, c := range b.kept {
		c.Close()
	}
	if b.sshd != nil {
		errs = append(errs, b.sshd.Close())
	}
	if b.cluster != nil {
		errs = append(errs, b.cluster.Close())
	}
	if b.work != "" {
		errs = append(errs, os.RemoveAll(b.work))
	}
	return errors.Join(errs...)
}

// A target is one of the things that are compared: somebody, with the settings it
// needs, and the addresses of its repositories.
type target struct {
	name string
	user *clustertest.User
	url  func(repo string) string
}

// The targets' names.
const (
	ours  = "cluster"
	cold  = "ssh cold"
	warm  = "ssh warm"
	plain = "file://"
)

func (b *bench) ours() target {
	return target{ours, b.cluster.Admin, func(repo string) string { return "cluster::" + clusterName(repo) }}
}

// overSSH is OpenSSH with the given configuration; way names its repositories.
func (b *bench) overSSH(name, way, config string) target {
	return target{name, b.cluster.Admin.With("GIT_SSH_COMMAND=ssh -F " + config), func(repo string) string {
		return "ssh://bench" + filepath.Join(b.sshd.dir, way+"-repos", repo+".git")
	}}
}

// targets are all that can be compared here, ours first.
func (b *bench) targets() []target {
	all := []target{b.ours()}
	if b.sshd != nil {
		all = append(all, b.overSSH(cold, "cold", b.sshd.cold), b.overSSH(warm, "warm", b.sshd.warm))
	}
	return append(all, target{plain, b.cluster.Admin, func(repo string) string {
		return "file://" + filepath.Join(b.work, "file", repo+".git")
	}})
}

// commandLimit is far more than any command takes.
const commandLimit = 15 * time.Minute

// git runs git as the target's user, and returns how long it took.
func (t target) git(ctx context.Context, dir string, args ...string) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, commandLimit, fmt.Errorf("it did not end within %v", commandLimit))
	defer cancel()
	r := t.user.RunContext(ctx, dir, "", append([]string{"git"}, args...)...)
	return r.Took, r.Err()
}

// push pushes the next commit of p to a branch of the repository.
func (t target) push(ctx context.Context, p *pusher, repo, branch string) (time.Duration, error) {
	commit, err := p.take(t.name + " " + repo + " " + branch)
	if err != nil {
		return 0, err
	}
	return t.git(ctx, p.dir, "push", "-q", t.url(repo), commit+":refs/heads/"+branch)
}

// newDir names a folder that is not there yet.
func (b *bench) newDir(name string) string {
	return filepath.Join(b.work, fmt.Sprintf("%s-%d", name, b.dirs.Add(1)))
}

// connect opens a connection to a node and keeps it. The caller must close it.
func (b *bench) connect(ctx context.Context, n *clustertest.Node) (*sshclient.Conn, error) {
	key, err := nodeKey(n)
	if err != nil {
		return nil, err
	}
	return sshclient.Dial(ctx, sshclient.Options{Addr: n.SSH, User: "git", IdentityFile: b.key, HostKey: key, HandshakeTimeout: time.Minute, Version: "gitcluster_bench"})
}

func nodeKey(n *clustertest.Node) (ssh.PublicKey, error) {
	text, err := os.ReadFile(filepath.Join(n.Data, "device", "id_ed25519.pub"))
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	return key, err
}

// nodePIDs are the processes of all nodes.
func (b *bench) nodePIDs() (pids []int) {
	for _, n := range b.cluster.Nodes {
		pids = append(pids, n.PID())
	}
	return pids
}
