package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gitcluster/internal/freeport"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// An sshd is what people use today: OpenSSH's server on this machine, and an account
// that is there for Git alone. Its shell is git-shell, so no login script is timed.
type sshd struct {
	dir     string // the account's home
	account string
	addr    string
	key     string // file of the private key that may log in
	pid     int    // of its parent, which knows what all below it has cost
	log     string
	end     context.CancelFunc
	ended   chan struct{}

	cold, warm string // configuration for ssh: a new connection each time, one that is kept
	master     func() // ends the connection that is kept
	madeRun    bool   // the folder in which sshd separates its privileges is ours
}

// errUnable: OpenSSH cannot be measured here, for a reason that is no defect.
var errUnable = errors.New("OpenSSH is not compared with")

const accountPrefix = "gcbench"

// newSSHD makes the account and starts the server. dir must be a folder that other
// accounts can reach. The caller must Close it, also on an error other than errUnable.
func newSSHD(ctx context.Context, dir, key string) (s *sshd, err error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: only root can make an account for it", errUnable)
	}
	program := map[string]string{}
	for _, name := range []string{"sshd", "ssh", "ssh-keygen", "git-shell", "useradd", "userdel"} {
		if program[name], err = find(name); err != nil {
			return nil, fmt.Errorf("%w: %w", errUnable, err)
		}
	}
	forgetAccounts(ctx, program["userdel"])
	s = &sshd{dir: dir, account: accountPrefix + strconv.Itoa(os.Getpid()), key: key, log: filepath.Join(dir, "log")}
	// "*" is a password that nobody has. Without one the account would be locked.
	if err := run(ctx, program["useradd"], "--system", "--no-create-home", "--home-dir", dir, "--shell", program["git-shell"],
		"--password", "*", "--comment", "bench/run of git-cluster", s.account); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnable, err)
	}
	const separation = "/run/sshd"
	if err := os.Mkdir(separation, 0o755); err == nil {
		s.madeRun = true
	} else if !errors.Is(err, fs.ErrExist) {
		return s, err
	}
	if err := run(ctx, program["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "host")); err != nil {
		return s, err
	}
	if err := s.start(ctx, program["sshd"]); err != nil {
		return s, err
	}
	s.master, err = keepMaster(ctx, program["ssh"], s.warm)
	return s, err
}

// start starts the server and writes the configuration of its clients.
func (s *sshd) start(ctx context.Context, program string) error {
	addrs, err := freeport.Addrs(1)
	if err != nil {
		return err
	}
	s.addr = addrs[0]
	host, port, _ := strings.Cut(s.addr, ":")
	public, err := os.ReadFile(s.key + ".pub")
	if err != nil {
		return err
	}
	file := func(name string) string { return filepath.Join(s.dir, name) }
	settings := fmt.Sprintf("ListenAddress %s\nHostKey %s\nPidFile none\nUsePAM no\nStrictModes no\nAllowUsers %s\nAuthorizedKeysFile %s\n"+
		"PasswordAuthentication no\nKbdInteractiveAuthentication no\nAcceptEnv GIT_PROTOCOL\nMaxStartups 1000\nMaxSessions 100\nLogLevel ERROR\n",
		s.addr, file("host"), s.account, file("authorized_keys"))
	hostKey, err := os.ReadFile(file("host.pub"))
	if err != nil {
		return err
	}
	s.cold, s.warm = file("cold"), file("warm")
	client := clientSettings(host, port, s.account, s.key, file("known_hosts"))
	if err := errors.Join(
		os.WriteFile(file("sshd_config"), []byte(settings), 0o600),
		os.WriteFile(file("authorized_keys"), public, 0o644),
		os.WriteFile(file("known_hosts"), append([]byte("bench "), hostKey...), 0o600),
		os.WriteFile(s.cold, []byte(client), 0o600),
		os.WriteFile(s.warm, []byte(client+"  ControlPath "+file("master")+"\n"), 0o600)); err != nil {
		return err
	}
	log, err := os.Create(s.log)
	if err != nil {
		return err
	}
	defer log.Close()
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	self, err := os.Executable()
	if err != nil {
		end()
		return err
	}
	c := gitcmd.Command{Args: []string{self, reapArg, program, "-D", "-e", "-f", file("sshd_config")}, Env: os.Environ()}
	p, err := new(gitexec.Runner).Start(running, c, gitexec.IO{Stdout: log, Stderr: log})
	if err != nil {
		end()
		return err
	}
	s.pid, s.end, s.ended = p.PID(), end, make(chan struct{})
	go func() {
		p.Wait() // ended by us
		close(s.ended)
	}()
	return await(ctx, 10*time.Second, func() string {
		err := run(ctx, "ssh", "-F", s.cold, "bench", "git-upload-pack '/nothing'")
		if err != nil && strings.Contains(err.Error(), "/nothing") {
			return "" // in Git's words
		}
		text, _ := os.ReadFile(s.log)
		return fmt.Sprintf("sshd serves no Git: %v\n%s", err, text)
	})
}

// clientSettings are those of a host "bench".
func clientSettings(host, port, account, key, known string) string {
	return fmt.Sprintf("Host bench\n  HostName %s\n  Port %s\n  User %s\n  HostKeyAlias bench\n  IdentityFile %q\n  IdentitiesOnly yes\n  IdentityAgent none\n"+
		"  BatchMode yes\n  UserKnownHostsFile %q\n  GlobalKnownHostsFile /dev/null\n", host, port, account, key, known)
}

// keepMaster opens a connection that commands with the same configuration share,
// until the returned function is called.
func keepMaster(ctx context.Context, program, config string) (end func(), err error) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := gitcmd.Command{Args: []string{program, "-F", config, "-o", "ControlMaster=yes", "-N", "bench"}, Env: os.Environ()}
	p, err := new(gitexec.Runner).Start(running, c, gitexec.IO{})
	if err != nil {
		cancel()
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		p.Wait() // ended by us
		close(ended)
	}()
	end = func() { cancel(); <-ended }
	err = await(ctx, 20*time.Second, func() string {
		if err := run(ctx, program, "-F", config, "-O", "check", "bench"); err != nil {
			return err.Error()
		}
		return ""
	})
	if err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// give makes a folder and all in it the account's.
func (s *sshd) give(dir string) error {
	who, err := user.Lookup(s.account)
	if err != nil {
		return err
	}
	uid, err1 := strconv.Atoi(who.Uid)
	gid, err2 := strconv.Atoi(who.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}

// Close ends the server, and removes the account.
func (s *sshd) Close() error {
	if s.master != nil {
		s.master()
	}
	if s.end != nil {
		s.end()
		<-s.ended
	}
	var err error
	if s.madeRun {
		err = os.Remove("/run/sshd")
	}
	program, findErr := find("userdel")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return errors.Join(err, findErr, removeAccount(ctx, program, s.account))
}

// removeAccount ends what an account still runs, and removes it.
func removeAccount(ctx context.Context, userdel, account string) error {
	who, err := user.Lookup(account)
	if err != nil {
		return err
	}
	err = await(ctx, 20*time.Second, func() string {
		pids, err := processesOf(who.Uid)
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL) // an error means that it is gone
		}
		if err != nil || len(pids) > 0 {
			return fmt.Sprintf("the account %s still runs %v (%v)", account, pids, err)
		}
		return ""
	})
	return errors.Join(err, run(ctx, userdel, account))
}

// forgetAccounts removes those of runs that were killed.
func forgetAccounts(ctx context.Context, userdel string) {
	text, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, ":")
		pid, err := strconv.Atoi(strings.TrimPrefix(name, accountPrefix))
		if err != nil || !strings.HasPrefix(name, accountPrefix) || syscall.Kill(pid, 0) == nil {
			continue
		}
		if err := removeAccount(ctx, userdel, name); err != nil {
			fmt.Fprintf(os.Stderr, "remove the account %s, which a former run has left: %v\n", name, err)
		}
	}
}

// processesOf lists the processes of an account.
func processesOf(uid string) (pids []int, err error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		if field(filepath.Join(dir, "status"), "Uid") == strings.Join([]string{uid, uid, uid, uid}, "\t") {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// find finds a program, also one for root.
func find(program string) (string, error) {
	path, err := gitexec.Find(program)
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/lib/git-core"} {
		if err == nil {
			break
		}
		path, err = gitexec.Find(filepath.Join(dir, program))
	}
	return path, err
}

// run runs a command of the bench's own to its end.
func run(ctx context.Context, args ...string) error {
	return new(gitexec.Runner).Run(ctx, gitcmd.Command{Args: args, Env: os.Environ()}, gitexec.IO{})
}
