package localsocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/session"
)

func admitAll(context.Context, cluster.Identity, netip.AddrPort) error { return nil }

func echo(_ context.Context, s *session.Session) int {
	input, err := io.ReadAll(s.Stdin)
	fmt.Fprintf(s.Stderr, "%s|%s|%s|%v|%v", s.Command, s.Identity, s.Remote, s.Env, err)
	s.Stdout.Write(input)
	return 7
}

func TestSession(t *testing.T) {
	f := start(t, &Server{Sessions: sessionFunc(echo), Admit: admitAll})
	if info, err := os.Stat(f.socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	got := f.run(t, SessionRequest{
		Command: "git-upload-pack 'x'",
		Env:     map[string]string{"GIT_PROTOCOL": "version=2", "LD_PRELOAD": "x"},
		As:      cluster.Identity{User: "alice"},
		Remote:  netip.MustParseAddrPort("[::ffff:192.0.2.1]:55"),
	}, strings.NewReader(big))
	if want := "git-upload-pack 'x'|alice|192.0.2.1:55|map[GIT_PROTOCOL:version=2]|<nil>"; got.stderr != want {
		t.Errorf("stderr %q, want %q", got.stderr, want)
	}
	if got.stdout != big || got.exit != 7 || got.err != nil {
		t.Errorf("%d bytes, exit %d, %v", len(got.stdout), got.exit, got.err)
	}
	got = f.run(t, operator, nil)
	if want := "x|operator|invalid AddrPort|map[]|<nil>"; got.stderr != want || got.exit != 7 {
		t.Errorf("operator without input: %+v", got)
	}
	got = f.run(t, SessionRequest{As: cluster.Identity{Device: "node1"}}, nil)
	if !strings.HasPrefix(got.stderr, "|device/node1|") {
		t.Errorf("device: %+v", got)
	}
}

func TestRefusals(t *testing.T) {
	f := start(t, &Server{Sessions: sessionFunc(echo), Admit: func(_ context.Context, id cluster.Identity, _ netip.AddrPort) error {
		if id.User == "alice" {
			return nil
		}
		return errors.New("the secret reason")
	}})
	for name, tt := range map[string]struct {
		req  SessionRequest
		want string
	}{
		"not admitted": {SessionRequest{As: cluster.Identity{User: "bob"}}, "permission denied"},
		"as nobody":    {SessionRequest{}, "as one of"},
		"as two":       {SessionRequest{As: cluster.Identity{User: "alice", Operator: true}}, "as one of"},
		"bad name":     {SessionRequest{As: cluster.Identity{User: "../x"}}, "bad user name"},
		"long command": {SessionRequest{As: operator.As, Command: strings.Repeat("x", maxCommand+1)}, "longer than 4096 bytes"},
		"long request": {SessionRequest{As: operator.As, Command: strings.Repeat("x", maxRequest)}, "request is longer"},
	} {
		if got := f.run(t, tt.req, nil); got.err == nil || !strings.Contains(got.err.Error(), tt.want) || got.stderr != "" {
			t.Errorf("%s: %+v, want %q", name, got, tt.want)
		}
	}
	if !strings.Contains(f.log.String(), "the secret reason") {
		t.Error("the log does not have the reason")
	}
	_, err := RunHook(t.Context(), f.socket, HookRequest{Hook: PreReceive, Push: "p"}, nil, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "serves no hooks") {
		t.Errorf("hook: %v", err)
	}
	bare := start(t, &Server{Sessions: sessionFunc(echo)})
	if got := bare.run(t, SessionRequest{As: cluster.Identity{User: "alice"}}, nil); got.err == nil {
		t.Error("a user was let in where nothing admits users")
	}
}

func TestMalformedRequests(t *testing.T) {
	f := start(t, &Server{Sessions: sessionFunc(echo), Hooks: hookFunc(nil)})
	for _, line := range []string{
		"\n", "{}\n", "null\n", "[]\n", "garbage\n",
		`{"kind":"other"}` + "\n",
		`{"kind":"session","as":{"operator":true},"surprise":1}` + "\n",
		`{"kind":"session","as":{"operator":true}} {}` + "\n",
		`{"kind":"session","as":{"operator":true},"hook":"pre-receive"}` + "\n",
		`{"kind":"session","as":{"operator":true},"remote":"nowhere"}` + "\n",
		`{"kind":"hook","hook":"post-receive","push":"p"}` + "\n",
		`{"kind":"hook","hook":"pre-receive","push":""}` + "\n",
		`{"kind":"hook","hook":"pre-receive","push":"p","as":{"operator":true}}` + "\n",
		`{"kind":"hook","hook":"pre-receive","push":"p","env":{"GIT_DIR":"/"}}` + "\n",
		`{"kind":"hook","hook":"pre-receive","push":"p","env":{"GIT_QUARANTINE_PATH":"a\u0000b"}}` + "\n",
		strings.Repeat("x", maxRequest+1),
	} {
		conn := f.raw(t, line)
		kind, content, err := readFrame(conn, make([]byte, maxFrame))
		if err != nil || kind != frameError {
			t.Errorf("%.60q: type %d %q, %v; want an error frame", line, kind, content, err)
		}
	}
	// Malformed frames end the request.
	ended := make(chan error, 1)
	g := start(t, &Server{Sessions: sessionFunc(func(ctx context.Context, s *session.Session) int {
		_, err := io.ReadAll(s.Stdin)
		<-ctx.Done()
		ended <- err
		return 0
	})})
	for _, frame := range []string{
		"\x00\x00\x00\x00\x00", "\x07\x00\x00\x00\x00", "\x03\x00\x00\x00\x00", "\x01\xff\xff\xff\xff", "\x01\x00\x01\x00\x01", "\x02\x00\x00\x00\x01x",
	} {
		g.raw(t, operatorLine+frame)
		if err := recv(t, ended, "the request to end"); err == nil {
			t.Errorf("%x was taken for the end of input", frame)
		}
	}
}

func TestHook(t *testing.T) {
	f := start(t, &Server{Hooks: hookFunc(func(_ context.Context, req HookRequest, stdin io.Reader, stdout, stderr io.Writer) int {
		input, err := io.ReadAll(stdin)
		fmt.Fprintf(stdout, "%s %s %v", req.Hook, req.Push, err)
		fmt.Fprintf(stderr, "%s in %s, %s", input, req.Env["GIT_QUARANTINE_PATH"], req.Env["GIT_PUSH_OPTION_0"])
		return 1
	})})
	req, socket, err := HookFromEnv(ProcReceive, nil, []string{
		EnvSocket + "=" + f.socket, EnvPush + "=token-1", "GIT_QUARANTINE_PATH=/q", "GIT_PUSH_OPTION_COUNT=1",
		"GIT_PUSH_OPTION_0=a\nb=c", "GIT_PUSH_OPTION_X=no", "GIT_DIR=.", "HOME=/root", "odd",
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(req.Env) != 3 {
		t.Errorf("variables: %v", req.Env)
	}
	var out, errOut bytes.Buffer
	exit, err := RunHook(t.Context(), socket, req, strings.NewReader("commands"), &out, &errOut)
	if err != nil || exit != 1 {
		t.Errorf("exit %d, %v", exit, err)
	}
	if out.String() != "proc-receive token-1 <nil>" || errOut.String() != "commands in /q, a\nb=c" {
		t.Errorf("%q, %q", &out, &errOut)
	}
	req.Env["GIT_QUARANTINE_PATH"] = "/\xff"
	if _, err := RunHook(t.Context(), socket, req, nil, &out, &errOut); err == nil || !strings.Contains(err.Error(), "not UTF-8") {
		t.Errorf("a path that JSON cannot carry: %v", err)
	}
}

func TestHookOutsidePush(t *testing.T) {
	for name, environ := range map[string][]string{
		"nothing":         nil,
		"no token":        {EnvSocket + "=/x/node.sock"},
		"empty token":     {EnvSocket + "=/x/node.sock", EnvPush + "="},
		"token of spaces": {EnvSocket + "=/x/node.sock", EnvPush + "=a b"},
		"long token":      {EnvSocket + "=/x/node.sock", EnvPush + "=" + strings.Repeat("x", maxToken+1)},
		"no socket":       {EnvPush + "=p"},
		"relative socket": {EnvSocket + "=node.sock", EnvPush + "=p"},
	} {
		_, _, err := HookFromEnv(PreReceive, nil, environ)
		if !errors.Is(err, ErrOutsidePush) || cluster.Hint(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := HookFromEnv("update", nil, []string{EnvSocket + "=/x", EnvPush + "=p"}); err == nil {
		t.Error("an unknown hook was taken")
	}
}

// A caller that goes away cancels what it asked for, whatever that is doing,
// and its input does not look complete.
func TestCallerGone(t *testing.T) {
	for _, doing := range []string{"reading", "writing", "nothing, with input", "nothing, with more input than fits"} {
		t.Run(doing, func(t *testing.T) {
			started, ended := make(chan struct{}), make(chan error, 1)
			f := start(t, &Server{Sessions: sessionFunc(func(ctx context.Context, s *session.Session) int {
				close(started)
				var err error
				switch doing {
				case "reading":
					_, err = io.Copy(io.Discard, s.Stdin)
					if err == nil {
						err = errors.New("input looked complete")
					} else {
						err = nil
					}
				case "writing":
					for werr := error(nil); werr == nil; {
						_, werr = s.Stdout.Write(make([]byte, 4096))
					}
				}
				<-ctx.Done()
				ended <- err
				return 0
			})})
			conn := f.raw(t, operatorLine)
			recv(t, started, "the command")
			frames := &frameWriter{w: conn}
			switch doing {
			case "nothing, with input":
				frames.send(frameStdin, []byte("unread"))
			case "nothing, with more input than fits":
				conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
				for err := error(nil); err == nil; {
					_, err = frames.send(frameStdin, make([]byte, maxFrame))
				}
			default:
				frames.send(frameStdin, []byte("part of it"))
			}
			conn.Close()
			if err := recv(t, ended, "the command to be canceled"); err != nil {
				t.Error(err)
			}
		})
	}
}

// Who does not read makes the other side wait, in both directions.
func TestBackPressure(t *testing.T) {
	var sent, written atomic.Int64
	stalled := func(what string, n *atomic.Int64) {
		last := int64(-1)
		same := 0
		waitFor(t, what+" to stall", func() (string, bool) {
			now := n.Load()
			if same++; now != last || now == 0 {
				last, same = now, 0
			}
			return fmt.Sprint(now), same >= 20
		})
		if last > 8<<20 {
			t.Errorf("%s went on for %d bytes", what, last)
		}
	}
	const total = 32 << 20
	read := make(chan struct{})
	f := start(t, &Server{Sessions: sessionFunc(func(_ context.Context, s *session.Session) int {
		<-read
		n, _ := io.Copy(io.Discard, s.Stdin)
		if n != total {
			return 1
		}
		for written.Load() < total {
			n, err := s.Stdout.Write(make([]byte, maxFrame))
			if err != nil {
				return 2
			}
			written.Add(int64(n))
		}
		return 0
	})})
	pr, pw := io.Pipe()
	done := make(chan result, 1)
	go func() {
		exit, err := RunSession(context.Background(), f.dir, operator,
			io.TeeReader(io.LimitReader(zeros{}, total), counter{&sent}), pw, io.Discard)
		pw.Close()
		done <- result{exit: exit, err: err}
	}()
	stalled("input", &sent)
	close(read)
	stalled("output", &written)
	n, err := io.Copy(io.Discard, pr)
	if got := recv(t, done, "the session"); n != total || err != nil || got.exit != 0 || got.err != nil {
		t.Errorf("%d bytes, %v; %+v", n, err, got)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return len(p), nil }

func TestExitBeforeInputIsRead(t *testing.T) {
	f := start(t, &Server{Sessions: sessionFunc(func(_ context.Context, s *session.Session) int {
		fmt.Fprint(s.Stderr, "no thanks")
		return 3
	})})
	for range 20 {
		got := f.run(t, operator, io.LimitReader(zeros{}, 1<<30))
		if got.exit != 3 || got.err != nil || got.stderr != "no thanks" {
			t.Fatalf("%+v", got)
		}
	}
}

func TestInputFails(t *testing.T) {
	ended := make(chan error, 1)
	f := start(t, &Server{Sessions: sessionFunc(func(ctx context.Context, s *session.Session) int {
		_, err := io.ReadAll(s.Stdin)
		ended <- err
		return 0
	})})
	broken := errors.New("the disk is broken")
	got := f.run(t, operator, io.MultiReader(strings.NewReader("half"), failing{broken}))
	if !errors.Is(got.err, broken) {
		t.Errorf("client: %+v", got)
	}
	if err := recv(t, ended, "the command"); err == nil {
		t.Error("half of the input looked complete to the command")
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestOutputFails(t *testing.T) {
	ended := make(chan struct{})
	f := start(t, &Server{Sessions: sessionFunc(func(ctx context.Context, s *session.Session) int {
		fmt.Fprint(s.Stdout, "x")
		<-ctx.Done()
		close(ended)
		return 0
	})})
	pr, pw := io.Pipe()
	pr.Close()
	if _, err := RunSession(t.Context(), f.dir, operator, nil, pw, io.Discard); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("client: %v", err)
	}
	recv(t, ended, "the command to be canceled")
}
