package sshserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
	"gitcluster/internal/session"
)

// The tests of this file let OpenSSH's own client talk to the server.

// openSSH returns a command that runs ssh against the fixture as its user.
func openSSH(t *testing.T, f *fixture, private ed25519.PrivateKey, login string, args ...string) *exec.Cmd {
	t.Helper()
	program, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("no ssh program")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	base := f.sshArgs(t, login, private)
	cmd := exec.CommandContext(ctx, program, append(base, args...)...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "GIT_PROTOCOL=version=2", "LD_PRELOAD="}
	return cmd
}

func startForOpenSSH(t *testing.T, handler handlerFunc, change func(*Options)) (*fixture, ed25519.PrivateKey) {
	t.Helper()
	f := start(t, handler, change)
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// Before anybody connects, so that the server's goroutines see it.
	if f.user, err = ssh.NewSignerFromKey(private); err != nil {
		t.Fatal(err)
	}
	return f, private
}

func TestOpenSSHExec(t *testing.T) {
	f, private := startForOpenSSH(t, echo, nil)
	input := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
	cmd := openSSH(t, f, private, "git", "git-upload-pack 'demo/hello'")
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("ssh ended with %v, want exit status 7; stderr %q", err, errOut.String())
	}
	if want := "git-upload-pack 'demo/hello'|alice|[GIT_PROTOCOL]|" + input; out.String() != want {
		t.Errorf("stdout has %d bytes, want %d: %.80q", out.Len(), len(want), out.String())
	}
	if want := "# err=<nil> version=version=2"; errOut.String() != want {
		t.Errorf("stderr %q, want %q", errOut.String(), want)
	}
}

func TestOpenSSHWithoutCommand(t *testing.T) {
	f, private := startForOpenSSH(t, echo, nil)
	for _, flag := range []string{"-T", "-n"} {
		cmd := openSSH(t, f, private, "git")
		cmd.Args = append([]string{cmd.Args[0], flag}, cmd.Args[1:]...)
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 || out.String() != "|alice|[GIT_PROTOCOL]|" {
			t.Errorf("%s: %v, stdout %q, stderr %q", flag, err, out.String(), errOut.String())
		}
	}
}

func TestOpenSSHRefused(t *testing.T) {
	f := start(t, echo, nil)
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cmd := openSSH(t, f, private, "git", "x")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Permission denied (publickey)") {
		t.Errorf("%v: %q", err, out)
	}
}

func TestOpenSSHJoin(t *testing.T) {
	f, private := startForOpenSSH(t, echo, func(o *Options) {
		o.JoinHandler = func(_ context.Context, key ssh.PublicKey, s *session.Session) int {
			io.Copy(s.Stdout, s.Stdin)
			return 0
		}
	})
	cmd := openSSH(t, f, private, JoinUser, JoinCommand)
	cmd.Stdin = strings.NewReader("hello")
	out, err := cmd.Output()
	if err != nil || string(out) != "hello" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestOpenSSHKilled(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	f, private := startForOpenSSH(t, func(ctx context.Context, s *session.Session) int {
		close(started)
		<-ctx.Done()
		close(ended)
		return 0
	}, nil)
	cmd := openSSH(t, f, private, "git", "x")
	in, err := cmd.StdinPipe() // held open: only the kill ends the client
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	recv(t, started, "the command")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	recv(t, ended, "the command to be canceled")
}

// A stopping node's last client learns how its command ended.
func TestOpenSSHShutdown(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	f, private := startForOpenSSH(t, func(ctx context.Context, s *session.Session) int {
		close(started)
		<-release
		return 9
	}, nil)
	cmd := openSSH(t, f, private, "git", "x")
	done := make(chan error, 1)
	go func() { done <- cmd.Run() }()
	recv(t, started, "the command")
	down := make(chan error, 1)
	go func() { down <- f.Shutdown(context.Background()) }()
	waitFor(t, "the node to be stopping", func() (string, bool) { return "", f.isStopping() })
	close(release)
	var exit *exec.ExitError
	if err := recv(t, done, "ssh"); !errors.As(err, &exit) || exit.ExitCode() != 9 {
		t.Errorf("ssh ended with %v, want exit status 9", err)
	}
	if err := recv(t, down, "Shutdown"); err != nil {
		t.Error(err)
	}
}

// Only the key that signed counts, not one that the server was asked about
// before (CVE-2024-45337).
func TestOnlyTheSigningKeyCounts(t *testing.T) {
	asked := make(chan string, 10)
	f, private := startForOpenSSH(t, echo, func(o *Options) {
		inner := o.Authenticate
		o.Authenticate = func(ctx context.Context, user string, key ssh.PublicKey, remote netip.AddrPort) (cluster.Identity, error) {
			id, err := inner(ctx, user, key, remote)
			asked <- id.String()
			return id, err
		}
	})
	// Of the device's key the client has the public half only. It offers that,
	// hears that it would do, and then cannot sign.
	public := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(public+".pub", ssh.MarshalAuthorizedKey(f.device.PublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := openSSH(t, f, private, "git", "who")
	cmd.Args = append([]string{cmd.Args[0], "-o", "IdentityFile=" + public}, cmd.Args[1:]...)
	out, err := cmd.CombinedOutput()
	if !strings.HasPrefix(string(out), "who|alice|") {
		t.Errorf("%v: %q", err, out)
	}
	if first, second := recv(t, asked, "a key"), recv(t, asked, "another key"); first != "device/node1" || second != "alice" {
		t.Errorf("the server was asked about %s, then %s", first, second)
	}
}
