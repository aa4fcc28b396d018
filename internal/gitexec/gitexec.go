// Package gitexec runs the commands that package gitcmd builds. It is the only
// package of the module that starts processes.
//
// Entry points: a [Runner] starts a [gitcmd.Command] with Start, Run or Output.
//
// It promises that a process runs in its own group, unless it needs the terminal,
// that the whole group is ended when its context ends, that it is always reaped, that on Linux it dies
// with the node and takes no more memory than its command allows, and that one which writes holds the data directory's lock.
package gitexec

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"gitcluster/internal/gitcmd"
)

// ErrLocked: somebody else has the lock.
var ErrLocked = errors.New("locked by another process")

// A Runner starts processes. The zero value is ready for commands that do not
// write.
type Runner struct {
	// Lock is the locked file of the data directory. Every writing process
	// inherits it, so that the next life of the node can wait for all of them.
	Lock *os.File

	grace time.Duration // in place of the constant; 0: that
}

// An IO names the streams of a process. A nil stream is the null device.
type IO struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// An ExitError is a process that ended with a non-zero status.
type ExitError struct {
	Command string // the program and its first argument
	Status  int    // -1 when a signal ended it
	Stderr  string // the last lines it wrote there, if they were not sent elsewhere
}

func (e *ExitError) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("%s: exit status %d", e.Command, e.Status)
	}
	return fmt.Sprintf("%s: exit status %d: %s", e.Command, e.Status, e.Stderr)
}

// A Process is a running command.
type Process struct {
	cmd  *exec.Cmd
	ctx  context.Context
	tail *tail
	end  func(p *os.Process, now bool) error
	kill *time.Timer // set by the goroutine that cmd.Wait joins
}

// grace is how long an ended process may take to clean up before it is killed.
const grace = 3 * time.Second

// Start starts c. The caller must call Wait.
//
// Unlike os/exec, Wait does not wait for Stdin: a client may hold its half open
// long after the process is gone.
func (r *Runner) Start(ctx context.Context, c gitcmd.Command, s IO) (*Process, error) {
	p := &Process{ctx: ctx}
	p.cmd = exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	p.cmd.Env, p.cmd.Dir = c.Env, c.Dir
	if p.cmd.Env == nil {
		p.cmd.Env = []string{} // never the node's own environment
	}
	p.cmd.SysProcAttr = attributes(c.Foreground)
	p.end = endGroup
	if c.Foreground {
		p.end = endProcess
	}
	p.cmd.Cancel = func() error {
		// Git removes its locks and quarantines on SIGTERM; one that does not
		// listen is killed.
		p.kill = time.AfterFunc(cmp.Or(r.grace, grace), func() { p.end(p.cmd.Process, true) })
		return p.end(p.cmd.Process, false)
	}
	// No WaitDelay: it would also run when the process has ended by itself and a
	// slow client still takes what is left in the pipe, and cut that off.
	if c.Writes && r.Lock != nil {
		p.cmd.ExtraFiles = []*os.File{r.Lock}
	}
	p.cmd.Stdout, p.cmd.Stderr = s.Stdout, s.Stderr
	if s.Stderr == nil {
		p.tail = &tail{}
		p.cmd.Stderr = p.tail
	}
	var stdin io.WriteCloser
	switch in := s.Stdin.(type) {
	case nil:
	case *os.File:
		p.cmd.Stdin = in
	default:
		var err error
		if stdin, err = p.cmd.StdinPipe(); err != nil {
			return nil, err
		}
	}
	if err := p.cmd.Start(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, fmt.Errorf("start %s: %w", c.Args[0], err)
	}
	if c.Memory > 0 {
		limitMemory(p.cmd.Process.Pid, c.Memory)
	}
	if stdin != nil {
		go func() {
			io.Copy(stdin, s.Stdin)
			stdin.Close()
		}()
	}
	return p, nil
}

// Wait waits for the process and reaps it. The error is the context's cause if
// that ended the process, or an [*ExitError].
func (p *Process) Wait() error {
	err := p.cmd.Wait()
	if p.kill != nil {
		// A grandchild may be deaf to SIGTERM and hold no stream that Wait
		// would have waited for.
		p.kill.Stop()
		p.end(p.cmd.Process, true)
	}
	if err == nil {
		return nil
	}
	if cause := context.Cause(p.ctx); cause != nil {
		return cause
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		e := &ExitError{Command: strings.Join(p.cmd.Args[:min(2, len(p.cmd.Args))], " "), Status: exit.ExitCode()}
		if p.tail != nil {
			e.Stderr = p.tail.String()
		}
		return e
	}
	return fmt.Errorf("%s: %w", p.cmd.Args[0], err)
}

// Run runs c to its end.
func (r *Runner) Run(ctx context.Context, c gitcmd.Command, s IO) error {
	p, err := r.Start(ctx, c, s)
	if err != nil {
		return err
	}
	return p.Wait()
}

// Output runs c and returns what it printed.
func (r *Runner) Output(ctx context.Context, c gitcmd.Command, stdin io.Reader) ([]byte, error) {
	var out bytes.Buffer
	err := r.Run(ctx, c, IO{Stdin: stdin, Stdout: &out})
	return out.Bytes(), err
}

// Status returns the exit status an error of Wait or Run stands for: 0 for nil,
// the process's own, or 255.
func Status(err error) int {
	var exit *ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Status > 0:
		return exit.Status
	}
	return 255
}

// tail keeps the end of what a process wrote, as one line for an error.
type tail struct{ b []byte }

const tailBytes = 2048

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if extra := len(t.b) - tailBytes; extra > 0 {
		t.b = append(t.b[:0], t.b[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	return strings.Join(strings.FieldsFunc(string(t.b), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// PID returns the process's id, which is also that of its group.
func (p *Process) PID() int { return p.cmd.Process.Pid }
