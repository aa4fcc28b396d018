package sshserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/session"
)

// echo is a handler with something to see on every stream.
func echo(ctx context.Context, s *session.Session) int {
	input, err := io.ReadAll(s.Stdin)
	fmt.Fprintf(s.Stdout, "%s|%s|%v|", s.Command, s.Identity, slices.Sorted(maps.Keys(s.Env)))
	s.Stdout.Write(input)
	fmt.Fprintf(s.Stderr, "# err=%v version=%s", err, s.Env["GIT_PROTOCOL"])
	return 7
}

func TestExec(t *testing.T) {
	f := start(t, echo, nil)
	client := f.dial(t, "git", f.user)
	s := f.session(t, client)
	for name, value := range map[string]string{
		"GIT_PROTOCOL":         "version=2",
		"LD_PRELOAD":           "/tmp/x.so",
		"GIT_DIR":              "/",
		"GIT_CLUSTER_STALE_OK": strings.Repeat("1", maxEnvValue+1),
	} {
		err := s.Setenv(name, value)
		if allowed := name == "GIT_PROTOCOL"; (err == nil) != allowed {
			t.Errorf("setting %s: %v", name, err)
		}
	}
	if err := s.Setenv("GIT_CLUSTER_STALE_OK", "1\n"); err == nil {
		t.Error("a value with a line end was taken")
	}
	stdout, stderr, status := run(t, s, "git-upload-pack 'x'", strings.NewReader("input"))
	if want := "git-upload-pack 'x'|alice|[GIT_PROTOCOL]|input"; stdout != want {
		t.Errorf("stdout %q, want %q", stdout, want)
	}
	if want := "# err=<nil> version=version=2"; stderr != want {
		t.Errorf("stderr %q, want %q", stderr, want)
	}
	if status != 7 {
		t.Errorf("exit status %d, want 7", status)
	}
	if got := string(client.ServerVersion()); got != "SSH-2.0-gitcluster_1.2_test" {
		t.Errorf("greeting %q", got)
	}
}

func TestRequestsOtherThanCommands(t *testing.T) {
	f := start(t, echo, nil)
	client := f.dial(t, "git", f.device)
	if ok, _, err := client.SendRequest("keepalive@openssh.com", true, nil); ok || err != nil {
		t.Errorf("keepalive: %t, %v; want an answer, which is a refusal", ok, err)
	}
	if ok, _, err := client.SendRequest("tcpip-forward", true, ssh.Marshal(struct {
		Addr string
		Port uint32
	}{"127.0.0.1", 0})); ok || err != nil {
		t.Errorf("forwarding: %t, %v", ok, err)
	}
	if c, err := client.Dial("tcp", f.addr); err == nil {
		c.Close()
		t.Error("the server forwarded a connection")
	}
	s := f.session(t, client)
	if err := s.RequestPty("xterm", 24, 80, nil); err == nil {
		t.Error("got a terminal")
	}
	if err := s.RequestSubsystem("sftp"); err == nil {
		t.Error("got a subsystem")
	}
	// The session is still good for a shell, which is the command "".
	var out, errOut lockedBuffer
	s.Stdin, s.Stdout, s.Stderr = strings.NewReader(""), &out, &errOut
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.SendRequest("exec", true, ssh.Marshal(struct{ C string }{"second"})); ok && err == nil {
		t.Error("a second command was accepted")
	}
	done := make(chan error, 1)
	go func() { done <- s.Wait() }()
	stdout, _, status := finish(t, done, &out, &errOut)
	if stdout != "|device/node1|[]|" || status != 7 {
		t.Errorf("shell: %q, status %d", stdout, status)
	}
}

func TestMalformedPayloads(t *testing.T) {
	f := start(t, echo, nil)
	client := f.dial(t, "git", f.user)
	s := f.session(t, client)
	for _, kind := range []string{"exec", "env"} {
		for _, payload := range [][]byte{nil, {0}, {0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 1}} {
			if ok, err := s.SendRequest(kind, true, payload); ok || err != nil {
				t.Errorf("%s %x: %t, %v; want a refusal", kind, payload, ok, err)
			}
		}
	}
	if _, _, status := run(t, s, "fine", nil); status != 7 {
		t.Errorf("after malformed requests: status %d", status)
	}
}

func TestTooLongCommand(t *testing.T) {
	f := start(t, echo, nil)
	client := f.dial(t, "git", f.user)
	stdout, _, status := run(t, f.session(t, client), strings.Repeat("x", maxCommand), nil)
	if status != 7 || !strings.HasPrefix(stdout, "xxx") {
		t.Errorf("the longest command: status %d", status)
	}
	stdout, stderr, status := run(t, f.session(t, client), strings.Repeat("x", maxCommand+1), nil)
	if stdout != "" || stderr != "# the command is longer than 4096 bytes\n" || status != 1 {
		t.Errorf("a longer one: %q, %q, %d", stdout, stderr, status)
	}
}

// A client that is done sending is still there: its command sees the end of
// input, goes on, and only then ends.
func TestHalfCloseIsNotTheEnd(t *testing.T) {
	more := make(chan struct{})
	f := start(t, func(ctx context.Context, s *session.Session) int {
		n, err := io.Copy(io.Discard, s.Stdin)
		fmt.Fprintf(s.Stdout, "eof after %d %v\n", n, err)
		select {
		case <-ctx.Done():
			fmt.Fprint(s.Stdout, "canceled")
			return 1
		case <-more:
		}
		fmt.Fprint(s.Stdout, "finished")
		return 0
	}, nil)
	s := f.session(t, f.dial(t, "git", f.user))
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(bytes.Repeat([]byte("y"), 5<<20)); err != nil { // more than a window
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, len("eof after 5242880 <nil>\n"))
	if _, err := io.ReadFull(out, first); err != nil || string(first) != "eof after 5242880 <nil>\n" {
		t.Fatalf("%q, %v", first, err)
	}
	close(more)
	rest, err := io.ReadAll(out)
	if err != nil || string(rest) != "finished" {
		t.Errorf("%q, %v", rest, err)
	}
	if err := s.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
}

// A client that goes away cancels the command, also while the command waits to
// write to it.
func TestClientGone(t *testing.T) {
	for _, how := range []string{"channel", "connection"} {
		for _, busy := range []string{"waiting", "writing"} {
			t.Run(how+"/"+busy, func(t *testing.T) {
				started, ended := make(chan struct{}), make(chan error, 1)
				f := start(t, func(ctx context.Context, s *session.Session) int {
					close(started)
					var err error
					if busy == "writing" {
						chunk := make([]byte, 64<<10)
						for err == nil {
							_, err = s.Stdout.Write(chunk)
						}
					}
					<-ctx.Done()
					ended <- err
					return 0
				}, nil)
				client := f.dial(t, "git", f.user)
				// A bare channel: nobody reads it, so its window fills.
				ch, reqs, err := client.OpenChannel("session", nil)
				if err != nil {
					t.Fatal(err)
				}
				go ssh.DiscardRequests(reqs)
				if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ C string }{"x"})); !ok || err != nil {
					t.Fatal(ok, err)
				}
				recv(t, started, "the command")
				if how == "channel" {
					ch.Close()
				} else {
					client.Close()
				}
				err = recv(t, ended, "the command to be canceled")
				if busy == "writing" && err == nil {
					t.Error("writing to nobody succeeded")
				}
			})
		}
	}
}

func TestManyChannels(t *testing.T) {
	var mu sync.Mutex
	running, most := 0, 0
	release := make(chan struct{})
	f := start(t, func(ctx context.Context, s *session.Session) int {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		<-release
		mu.Lock()
		running--
		mu.Unlock()
		return 0
	}, func(o *Options) { o.Limits.UserChannels = 3; o.Limits.DeviceChannels = 8 })
	for _, tt := range []struct {
		key  ssh.Signer
		want int
	}{{f.user, 3}, {f.device, 8}} {
		client := f.dial(t, "git", tt.key)
		var open []*ssh.Session
		for {
			s, err := client.NewSession()
			if err != nil {
				if !strings.Contains(err.Error(), "too many sessions") {
					t.Fatal(err)
				}
				break
			}
			if err := s.Start("x"); err != nil {
				t.Fatal(err)
			}
			open = append(open, s)
			if len(open) > 20 {
				break
			}
		}
		if len(open) != tt.want {
			t.Errorf("%d channels at once, want %d", len(open), tt.want)
		}
		waitFor(t, "all commands to run", func() (string, bool) {
			mu.Lock()
			defer mu.Unlock()
			return fmt.Sprint(running), running == len(open)
		})
		for range open {
			release <- struct{}{}
		}
		for _, s := range open {
			if err := s.Wait(); err != nil {
				t.Errorf("a command: %v", err)
			}
		}
	}
	if most != 8 {
		t.Errorf("%d commands ran at once, want 8", most)
	}
	// Places come back: many commands one after the other on one connection.
	client := f.dial(t, "git", f.user)
	close(release)
	for range 50 {
		if _, _, status := run(t, f.session(t, client), "x", nil); status != 0 {
			t.Fatalf("status %d", status)
		}
	}
}

func TestPanicEndsOneCommand(t *testing.T) {
	f := start(t, func(ctx context.Context, s *session.Session) int {
		if s.Command == "panic" {
			panic("the reason")
		}
		return echo(ctx, s)
	}, nil)
	client := f.dial(t, "git", f.user)
	_, stderr, status := run(t, f.session(t, client), "panic", nil)
	if status != 255 || stderr != "# internal error; the node's log has the details\n" {
		t.Errorf("status %d, stderr %q", status, stderr)
	}
	if !strings.Contains(f.log.String(), "the reason") {
		t.Error("the log does not have the panic")
	}
	if _, _, status := run(t, f.session(t, client), "next", nil); status != 7 {
		t.Errorf("the next command on the connection: status %d", status)
	}
}
