package clustertest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// An OpenSSH is an sshd in front of a node, with git-cluster's authorized-keys and
// shell behind it. All users know it as a host of its name.
type OpenSSH struct {
	Name string
	Addr string // host:port

	dir   string
	end   context.CancelFunc
	ended chan struct{}
}

// ErrNoOpenSSH: this machine cannot have one.
var ErrNoOpenSSH = errors.New("no sshd can be started here")

// StartOpenSSH starts one in front of a node, on the node's machine. It goes on when the
// node is killed, and ends with the cluster.
func (c *Cluster) StartOpenSSH(n *Node) (*OpenSSH, error) {
	sshd, err := gitexec.Find("sshd")
	if err != nil {
		if sshd, err = gitexec.Find("/usr/sbin/sshd"); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoOpenSSH, err)
		}
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: it runs AuthorizedKeysCommand only as root", ErrNoOpenSSH)
	}
	// Every folder above that command must be root's alone, which those of
	// temporary files are not; and it separates its privileges in the other.
	dir, err := os.MkdirTemp("/root", "gc-sshd-")
	if err == nil {
		err = os.MkdirAll("/run/sshd", 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoOpenSSH, err)
	}
	f := &OpenSSH{Name: "sshd-" + n.Name, dir: dir, ended: make(chan struct{})}
	c.fronts = append(c.fronts, f) // from here on Close removes it
	if f.Addr, err = c.frontAddress(n); err != nil {
		return nil, err
	}
	if err := f.configure(c, n); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ctx, cancel := context.WithCancel(context.Background())
	f.end = cancel
	server := gitcmd.Command{Args: append(c.links.enter(n.Name), sshd, "-D", "-e", "-f", filepath.Join(dir, "config")), Env: os.Environ()}
	p, err := new(gitexec.Runner).Start(ctx, server, gitexec.IO{Stderr: log})
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		p.Wait() // it is ended from here: its error says so
		close(f.ended)
	}()
	last := await(time.Minute, func() string {
		conn, err := net.Dial("tcp", f.Addr)
		if err != nil {
			return err.Error()
		}
		conn.Close()
		return ""
	})
	if last != "" {
		return nil, fmt.Errorf("%s: %s\n%s", f.Name, last, f.Log())
	}
	return f, c.writeFiles()
}

func (c *Cluster) frontAddress(n *Node) (string, error) {
	if c.links != nil {
		return c.links.host(n.Name, Fronts) + ":2222", nil
	}
	addrs, err := c.net.draw(1)
	if err != nil {
		return "", err
	}
	return addrs[0], nil
}

func (f *OpenSSH) configure(c *Cluster, n *Node) error {
	host, port, err := net.SplitHostPort(f.Addr)
	if err != nil {
		return err
	}
	keygen := gitcmd.Command{Args: []string{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(f.dir, "host")}, Env: os.Environ()}
	if err := new(gitexec.Runner).Run(context.Background(), keygen, gitexec.IO{}); err != nil {
		return err
	}
	keys := filepath.Join(f.dir, "keys")
	command := fmt.Sprintf("#!/bin/sh\nexec %s authorized-keys --data %s \"$1\" \"$2\"\n", filepath.Join(c.Bin, "git-cluster"), n.Data)
	settings := fmt.Sprintf(`Port %s
ListenAddress %s
HostKey %s
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile none
AuthorizedKeysCommand %s %%t %%k
AuthorizedKeysCommandUser root
AcceptEnv GIT_PROTOCOL GIT_CLUSTER_STALE_OK
SetEnv HOME=%s
MaxStartups 100
LogLevel VERBOSE
`, port, host, filepath.Join(f.dir, "host"), keys, f.dir) // a shell reads nothing of the account's own
	return errors.Join(os.WriteFile(keys, []byte(command), 0o755), os.WriteFile(filepath.Join(f.dir, "config"), []byte(settings), 0o600))
}

// HostKey is its public host key, with a comment.
func (f *OpenSSH) HostKey() (string, error) {
	key, err := os.ReadFile(filepath.Join(f.dir, "host.pub"))
	return strings.TrimSpace(string(key)), err
}

// Log is what it has logged.
func (f *OpenSSH) Log() string {
	said, err := os.ReadFile(filepath.Join(f.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(said)
}

func (f *OpenSSH) close() error {
	if f.end != nil {
		f.end()
		<-f.ended
	}
	return os.RemoveAll(f.dir)
}

// host is how a user's ssh_config has it.
func (f *OpenSSH) host() (string, error) {
	host, port, err := net.SplitHostPort(f.Addr)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("Host %s\n  HostName %s\n  Port %s\n  HostKeyAlias %s\n  User root\n\n", f.Name, host, port, f.Name), nil
}
