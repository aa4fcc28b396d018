package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/credential"
	"gitcluster/internal/durable"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/localsocket"
	"gitcluster/internal/service"
)

// A dataDir is everything a node keeps, in one directory:
//
//	node.toml        what the node knows of itself
//	device/          its key
//	incarnation      names this disk from its joining to its first start
//	tls/             its credentials for the journal, and which of others' count no more
//	http/            the certificate of its HTTPS front, if it made one
//	journal/         the embedded etcd server's data
//	journal-member   the id that server has among the others, from before it took part
//	journal-servers  where the journal's voters were last seen
//	journal-seat     whether it has such a server, if that has changed since it joined
//	repositories/    the replicas
//	lost/            bundles made before something was given up as lost
//	hooks/           what receive-pack and upload-pack call
//	observing/       what pulls of mirrors need while they run
//	lock             held by the node and by every Git process that writes
type dataDir string

func (d dataDir) path(parts ...string) string {
	return filepath.Join(append([]string{string(d)}, parts...)...)
}

func (d dataDir) config() string { return d.path("node.toml") }

// lock takes the directory for this process. A Git process of a former life may
// hold it a moment longer than that life: it could still rename a lock file into
// place, so nothing is touched before the last is gone.
func (d dataDir) lock(ctx context.Context, log *slog.Logger) (*os.File, error) {
	f, err := os.OpenFile(d.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(lockPatience)
	for told := false; ; told = true {
		err := gitexec.TryLock(f)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, gitexec.ErrLocked) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if !told {
			if conn, err := localsocket.Dial(ctx, string(d)); err == nil {
				conn.Close() // not a leftover: a node that is alive
				f.Close()
				return nil, d.inUse()
			}
			log.Info("waiting for the data directory's lock", "path", f.Name())
		}
		t := time.NewTimer(50 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			f.Close()
			return nil, context.Cause(ctx)
		}
		if time.Now().After(deadline) {
			f.Close()
			return nil, d.inUse()
		}
	}
}

func (d dataDir) inUse() error {
	return cluster.WithHint(fmt.Errorf("the data directory %s is in use by another node or by a Git process of one", d),
		"one data directory serves one node; stop the other one first")
}

// lockPatience is how long a start waits for the writers of a former life.
const lockPatience = 20 * time.Second

// hookProgram is what receive-pack and upload-pack run as their hooks.
const hookProgram = "git-cluster-hook"

// findHookProgram looks where it is installed: in the libexec folder beside that of
// this program, or beside this program.
func findHookProgram() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(self)
	for _, path := range []string{filepath.Join(dir, "..", "libexec", "git-cluster", hookProgram), filepath.Join(dir, hookProgram)} {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return path, nil
		}
	}
	return "", cluster.WithHint(fmt.Errorf("there is no %s beside %s", hookProgram, self), "install all programs of this release: install.sh does")
}

// installHooks makes the hooks that receive-pack and upload-pack call.
func (d dataDir) installHooks() error {
	program, err := findHookProgram()
	if err != nil {
		return err
	}
	return service.InstallHooks(d.path("hooks"), program)
}

// A key is a device's identity.
type key struct {
	ssh.Signer
	public string // its authorized_keys line
}

func (d dataDir) loadKey() (key, error) {
	path := d.path("device", "id_ed25519")
	info, err := os.Stat(path)
	if err != nil {
		return key{}, err
	}
	// A key that others can read is not a device's alone.
	if info.Mode().Perm()&0o077 != 0 {
		return key{}, cluster.WithHint(fmt.Errorf("%s may be read by others (mode %#o)", path, info.Mode().Perm()), "chmod 600 "+path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return key{}, err
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return key{}, fmt.Errorf("%s: %w", path, err)
	}
	return key{signer, publicLine(signer.PublicKey())}, nil
}

func (d dataDir) createKey(comment string) (key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return key{}, err
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return key{}, err
	}
	if err := os.MkdirAll(d.path("device"), 0o700); err != nil {
		return key{}, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return key{}, err
	}
	k := key{signer, publicLine(signer.PublicKey())}
	return k, errors.Join(
		durable.WriteFile(d.path("device", "id_ed25519"), pem.EncodeToMemory(block), 0o600),
		durable.WriteFile(d.path("device", "id_ed25519.pub"), []byte(k.public+" "+comment+"\n"), 0o644))
}

// saveIdentity makes the node's key an identity that Git can use on this machine,
// too: with it in GIT_CLUSTER_DEVICE_DIR a person or a job fetches as the node.
func (d dataDir) saveIdentity(self *config.Self, hosts []string) error {
	id := credential.Identity{Name: self.Name, ClusterID: self.ClusterID, Cluster: self.Cluster, Hosts: hosts}
	return id.Save(d.path("device"))
}

func publicLine(k ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

func (d dataDir) servers() []string {
	data, err := os.ReadFile(d.path("journal-servers"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

func (d dataDir) saveServers(servers []string) error {
	return durable.WriteFile(d.path("journal-servers"), []byte(strings.Join(servers, "\n")+"\n"), 0o600)
}

// build makes a data directory in a folder inside its place and moves it up when
// it is complete, so that a failed init or join leaves nothing. It needs no right to the
// directory above if the place itself exists, as a packaged service's does.
func build(dir string, fill func(dataDir) error) (err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	switch {
	case err == nil && len(entries) > 0:
		return cluster.WithHint(fmt.Errorf("%s is not empty: %w", dir, cluster.ErrExists), "give another --data, or remove what is there")
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				os.Remove(dir) // only if it is empty
			}
		}()
	case err != nil:
		return err
	}
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // before the directory itself goes: deferred calls run last first
	if err := fill(dataDir(tmp)); err != nil {
		return err
	}
	if entries, err = os.ReadDir(tmp); err != nil {
		return err
	}
	// node.toml makes it a node's directory, so that goes last.
	for _, last := range []bool{false, true} {
		for _, e := range entries {
			if (e.Name() == "node.toml") == last {
				if err := os.Rename(filepath.Join(tmp, e.Name()), filepath.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
		if err := durable.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}
