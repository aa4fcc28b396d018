// Package remotehelper speaks the protocol between Git and a remote helper
// (gitremote-helpers(7)), as far as the capabilities "connect" and "option" go.
//
// Entry point: [Serve] answers Git's commands until a service is connected, by a
// [Connector], and then passes bytes both ways until the service ends.
//
// It promises to answer "capabilities" before anything that can fail, so that
// the one error Git's user sees is ours; to tell Git that a service is connected
// only when the Connector has said so; to lose or invent no byte of the service;
// and to end when Git goes away, when the service ends, and on any command it
// does not know, since Git would wait for an answer for ever.
package remotehelper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// A Service is a program of a Git server.
type Service string

// The services Git may ask a helper for.
const (
	UploadPack    Service = "git-upload-pack"
	ReceivePack   Service = "git-receive-pack"
	UploadArchive Service = "git-upload-archive"
)

// SpeaksFirst reports whether the server sends before it has been asked
// anything. `git archive --remote` alone asks first.
func (s Service) SpeaksFirst() bool { return s != UploadArchive }

// ReadsOnly reports whether the service changes nothing on the server.
func (s Service) ReadsOnly() bool { return s != ReceivePack }

// Options are what Git told the helper before it asked for a service.
type Options struct {
	Verbosity   int    // 1 unless Git said otherwise; less for -q, more for -v
	Progress    bool   // Git shows progress
	Family      string // "ipv4", "ipv6", or "" for both
	ServicePath string // the program to run on the server instead of the service's name
}

// A Connector finds a server and starts a service there.
type Connector interface {
	// Prepare is called once, before Connect: when Git has its first answer and goes
	// on to say what it wants. What Connect will need may begin then, and must not
	// begin earlier, since Git waits for that answer. It returns at once.
	Prepare()
	// Connect returns when the service has started to answer, or has started
	// if it is one that does not speak first: the last moment at which another
	// server could still be tried. The stream ends with the context.
	Connect(ctx context.Context, service Service, o Options) (Stream, error)
}

// A Stream is a service on a server. Read gives what it says, up to io.EOF; Write
// tells it something and CloseWrite says that this was all. Wait returns its exit
// status, after the end of Read; without one, an error. Close ends it and never
// waits.
type Stream interface {
	io.ReadWriter
	CloseWrite() error
	Wait() (status int, err error)
	Close() error
}

// ErrGitGone: Git closed the helper's standard input or output before it had
// what it asked for, so there is nobody to tell.
var ErrGitGone = errors.New("git has gone away")

// A StatusError is a service that failed after it was connected. The service and
// Git have said why.
type StatusError struct {
	Service Service
	Status  int
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s ended with status %d", e.Service, e.Status)
}

// maxLine bounds a command of Git. The longest hold a file name.
const maxLine = 16 << 10

// bufferSize holds several packets of SSH and the whole of a pipe.
const bufferSize = 128 << 10

// Serve answers Git on in and out until it is done or the context ends. It may
// leave a read of in behind, which ends with the process.
func Serve(ctx context.Context, in io.Reader, out io.Writer, c Connector) error {
	h := &helper{in: bufio.NewReaderSize(in, bufferSize), out: out, connector: c, options: Options{Verbosity: 1}}
	prepare := sync.OnceFunc(c.Prepare)
	for {
		line, err := h.readLine(ctx)
		if err == io.EOF {
			return nil // Git needed no more
		}
		if err != nil {
			return err
		}
		command, arg, _ := strings.Cut(line, " ")
		switch command {
		case "":
			return nil
		case "capabilities":
			err = h.reply("connect\noption\n\n")
		case "option":
			err = h.option(arg)
		case "connect":
			prepare()
			return h.connect(ctx, Service(arg))
		default:
			return fmt.Errorf("unknown command %q from git", clip(command))
		}
		if err != nil {
			return err
		}
		prepare()
	}
}

type helper struct {
	in        *bufio.Reader // the only reader: what follows "connect" in its buffer is the service's
	out       io.Writer
	connector Connector
	options   Options
}

func (h *helper) readLine(ctx context.Context) (string, error) {
	type result struct {
		line string
		err  error
	}
	read := make(chan result, 1)
	go func() {
		line, err := readLine(h.in)
		read <- result{line, err}
	}()
	select {
	case r := <-read:
		return r.line, r.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// readLine reads one command. A line that Git did not finish is no command.
func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadSlice('\n')
	switch {
	case err == bufio.ErrBufferFull, len(line) > maxLine:
		return "", fmt.Errorf("a command from git is longer than %d bytes", maxLine)
	case err == io.EOF && len(line) > 0:
		return "", fmt.Errorf("git ended in the middle of the command %q", clip(string(line)))
	case err != nil:
		return "", err
	}
	return string(line[:len(line)-1]), nil
}

func (h *helper) reply(text string) error {
	if _, err := io.WriteString(h.out, text); err != nil {
		return ErrGitGone
	}
	return nil
}

// option answers "option NAME VALUE".
func (h *helper) option(arg string) error {
	name, value, _ := strings.Cut(arg, " ")
	switch name {
	case "verbosity":
		n, err := strconv.Atoi(value)
		if err != nil {
			return h.reply("error verbosity is not a number\n")
		}
		h.options.Verbosity = n
	case "progress":
		h.options.Progress = value == "true"
	case "family":
		switch value {
		case "ipv4", "ipv6":
			h.options.Family = value
		case "all":
			h.options.Family = ""
		default:
			return h.reply("error unknown address family\n")
		}
	case "servpath":
		path, err := unquote(value)
		if err != nil {
			// Not a refusal, after which Git would go on with the default
			// program and so do something else than it was told.
			return fmt.Errorf("the program for the server's side %q: %w", clip(value), err)
		}
		h.options.ServicePath = path
	default:
		return h.reply("unsupported\n")
	}
	return h.reply("ok\n")
}

// connect starts a service and passes its bytes until it ends.
func (h *helper) connect(ctx context.Context, service Service) error {
	switch service {
	case UploadPack, ReceivePack, UploadArchive:
	default:
		return fmt.Errorf("unknown service %q from git", clip(string(service)))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	// Git sends nothing before our reply, so until then the end of its half
	// means that it is gone. Nobody else would tell: a helper that outlives Git
	// would keep the server busy, and a terminal waiting.
	var connected atomic.Bool
	spoke := make(chan struct{})
	go func() {
		defer close(spoke)
		if _, err := h.in.Peek(1); err != nil && !connected.Load() {
			cancel(ErrGitGone)
		}
	}()

	stream, err := h.connector.Connect(ctx, service, h.options)
	if err != nil {
		if context.Cause(ctx) == ErrGitGone {
			return ErrGitGone
		}
		return err
	}
	defer stream.Close()
	connected.Store(true)
	if err := h.reply("\n"); err != nil {
		return err
	}
	return h.pass(ctx, service, stream, spoke)
}
