//go:build linux

package gitexec

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A family starts a child that has a grandchild, and returns both ids.
func family(t *testing.T, ctx context.Context, script string) (p *Process, child, grandchild int) {
	t.Helper()
	var r Runner
	out, said := io.Pipe()
	p, err := r.Start(ctx, sh(script), IO{Stdout: said})
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, out)
	if grandchild, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
		t.Fatal(err)
	}
	return p, p.PID(), grandchild
}

// Whoever of a group listens to SIGTERM or not, and whatever streams it holds:
// after the context's end all of it is gone.
func TestTheWholeGroupEndsWithItsContext(t *testing.T) {
	// The grandchild says its id only when it is ready.
	const deaf = `trap "" TERM; echo $$; `
	for _, c := range []struct{ what, script string }{
		{"both listen", `sh -c 'echo $$; exec sleep 600' & wait`},
		{"the grandchild is deaf", `sh -c '` + deaf + `while :; do sleep 1; done' & wait`},
		{"the grandchild is deaf and holds no stream", `sh -c '` + deaf + `exec >/dev/null 2>&1 </dev/null; while :; do sleep 1; done' & wait`},
		{"both are deaf", `trap "" TERM; sh -c 'echo $$; while :; do sleep 1; done' & while :; do wait; done`},
		{"the child is deaf", `trap : TERM; sh -c 'echo $$; exec sleep 600' & while :; do sleep 1; done`},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			cause := errors.New("the client went away")
			ctx, cancel := context.WithCancelCause(t.Context())
			p, child, grandchild := family(t, ctx, c.script)
			if s := state(grandchild); s == "" || s == "Z" {
				t.Fatalf("the grandchild is in state %q before the end", s)
			}
			cancel(cause)
			if err := within(t, "Wait", p.Wait); !errors.Is(err, cause) {
				t.Errorf("Wait returned %v, want the cause", err)
			}
			waitGone(t, "the child", child, true)
			waitGone(t, "the grandchild", grandchild, false)
		})
	}
}

// One that listens may clean up first.
func TestTermComesBeforeKill(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := Runner{grace: time.Minute}
	out, said := io.Pipe()
	p, err := r.Start(ctx, sh(`trap 'echo cleaned; exit 0' TERM; echo ready; while :; do sleep 0.05; done`), IO{Stdout: said})
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("%q", lines.Text())
	}
	cancel()
	if !lines.Scan() || lines.Text() != "cleaned" {
		t.Errorf("%q, want it to have cleaned up", lines.Text())
	}
	if err := within(t, "Wait", p.Wait); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait returned %v", err)
	}
}

func TestCauseOfTheEnd(t *testing.T) {
	var r Runner
	cause := errors.New("the node stops")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, cause)
	defer cancel()
	if err := within(t, "Run", func() error { return r.Run(ctx, sh("exec sleep 600"), IO{}) }); !errors.Is(err, cause) {
		t.Errorf("after a deadline: %v, want its cause", err)
	}
	ended, end := context.WithCancelCause(t.Context())
	end(cause)
	if err := within(t, "Run", func() error { return r.Run(ended, sh("exit 0"), IO{}) }); !errors.Is(err, cause) {
		t.Errorf("after the end: %v, want its cause", err)
	}
	// A process that had ended before is not the context's doing.
	alive, end2 := context.WithCancelCause(t.Context())
	p, err := r.Start(alive, sh("exit 7"), IO{})
	if err != nil {
		t.Fatal(err)
	}
	if err := within(t, "Wait", p.Wait); Status(err) != 7 {
		t.Errorf("got %v, want status 7", err)
	}
	end2(cause)
}

// Nobody who has returned from Wait has left a process behind, however the two
// ends raced.
func TestCancelAtAnyMoment(t *testing.T) {
	var r Runner
	for i := range 40 {
		ctx, cancel := context.WithCancel(t.Context())
		p, err := r.Start(ctx, sh(fmt.Sprintf("exit %d", i%2)), IO{Stdin: strings.NewReader("input")})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			<-time.After(time.Duration(i%8) * 300 * time.Microsecond)
			cancel()
		}()
		within(t, "Wait", p.Wait)
		if s := state(p.PID()); s != "" {
			t.Fatalf("round %d: the process is in state %q after Wait", i, s)
		}
		cancel()
	}
}
