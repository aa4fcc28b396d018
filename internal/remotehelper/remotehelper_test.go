package remotehelper

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// A fakeStream is a service made of two pipes.
type fakeStream struct {
	out       io.Reader
	in        *io.PipeWriter
	status    int
	err       error
	closed    chan struct{}
	closeOnce sync.Once
	onClose   func()
}

func (f *fakeStream) Read(p []byte) (int, error)  { return f.out.Read(p) }
func (f *fakeStream) Write(p []byte) (int, error) { return f.in.Write(p) }
func (f *fakeStream) CloseWrite() error           { return f.in.Close() }
func (f *fakeStream) Wait() (int, error)          { return f.status, f.err }
func (f *fakeStream) Close() error {
	f.closeOnce.Do(func() {
		close(f.closed)
		f.onClose()
	})
	return nil
}

// newFake returns a stream, what Git says to it, and where the service speaks.
func newFake() (f *fakeStream, heard *io.PipeReader, speak *io.PipeWriter) {
	heard, in := io.Pipe()
	out, speak := io.Pipe()
	f = &fakeStream{out: out, in: in, closed: make(chan struct{})}
	f.onClose = func() { out.CloseWithError(io.EOF); heard.Close() }
	return f, heard, speak
}

type connectFunc func(context.Context, Service, Options) (Stream, error)

func (f connectFunc) Prepare() {}

func (f connectFunc) Connect(ctx context.Context, s Service, o Options) (Stream, error) {
	return f(ctx, s, o)
}

var noConnector = connectFunc(func(context.Context, Service, Options) (Stream, error) {
	return nil, errors.New("not expected")
})

func TestCommands(t *testing.T) {
	var service Service
	var options Options
	stop := errors.New("stop")
	connect := connectFunc(func(_ context.Context, s Service, o Options) (Stream, error) {
		service, options = s, o
		return nil, stop
	})
	in := "capabilities\n" + "option progress true\n" + "option verbosity 3\n" + "option verbosity x\n" +
		"option family ipv6\n" + "option family ipx\n" + `option servpath "a \"b\" \303\244"` + "\n" +
		"option followtags true\n" + "connect git-upload-pack\n"
	var out bytes.Buffer
	// A pipe, since the end of input during Connect means that Git is gone.
	r, w := io.Pipe()
	defer w.Close()
	go io.WriteString(w, in)
	err := Serve(t.Context(), r, &out, connect)
	if err != stop {
		t.Errorf("Serve: %v", err)
	}
	want := "connect\noption\n\n" + "ok\nok\nerror verbosity is not a number\nok\nerror unknown address family\nok\nunsupported\n"
	if out.String() != want {
		t.Errorf("replies %q, want %q", out.String(), want)
	}
	if service != UploadPack || options != (Options{Verbosity: 3, Progress: true, Family: "ipv6", ServicePath: `a "b" ä`}) {
		t.Errorf("connect %s %+v", service, options)
	}
}

// A preparing notes what Git had been told when it was to prepare.
type preparing struct {
	connectFunc
	out  *bytes.Buffer
	told []string
}

func (p *preparing) Prepare() { p.told = append(p.told, p.out.String()) }

// Git's first answer waits for nothing, and Connect finds everything begun.
func TestPrepare(t *testing.T) {
	stop := errors.New("stop")
	for in, want := range map[string][]string{
		"capabilities\noption verbosity 1\nconnect git-upload-pack\n": {"connect\noption\n\n"},
		"capabilities\n\n":          {"connect\noption\n\n"},
		"option verbosity 1\n\n":    {"ok\n"},
		"connect git-upload-pack\n": {""},
		"list\n":                    nil,
		"":                          nil,
	} {
		p := &preparing{out: new(bytes.Buffer)}
		p.connectFunc = func(context.Context, Service, Options) (Stream, error) {
			if p.told == nil {
				t.Errorf("%q: Connect before Prepare", in)
			}
			return nil, stop
		}
		Serve(t.Context(), strings.NewReader(in), p.out, p)
		if !slices.Equal(p.told, want) {
			t.Errorf("%q: prepared after %q, want %q", in, p.told, want)
		}
	}
}

func TestCommandsThatEndTheHelper(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "",
		"\n":                                "",
		"capabilities\n":                    "",
		"list\n":                            `unknown command "list"`,
		"list for-push\n":                   `unknown command "list"`,
		"stateless-connect x\n":             "unknown command",
		"connect git-daemon\n":              "unknown service",
		"connect\n":                         "unknown service",
		"option servpath \"x\n":             "quoting",
		"option servpath a\x01b\n":          "control byte",
		"option servpath \n":                "empty",
		"capa":                              "in the middle",
		strings.Repeat("x", 200<<10):        "longer than",
		strings.Repeat("x", maxLine) + "\n": "longer than",
	} {
		err := Serve(t.Context(), strings.NewReader(in), io.Discard, noConnector)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", in, err, want)
		}
	}
}

// start serves in the background and returns Git's ends of the pipes.
func start(t *testing.T, ctx context.Context, c Connector) (toHelper *os.File, fromHelper *os.File, result chan error) {
	t.Helper()
	in, toHelper, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fromHelper, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	result = make(chan error, 1)
	go func() {
		err := Serve(ctx, in, out, c)
		out.Close()
		result <- err
	}()
	t.Cleanup(func() {
		toHelper.Close()
		fromHelper.Close()
	})
	return toHelper, fromHelper, result
}

func await(t *testing.T, result chan error) error {
	t.Helper()
	select {
	case err := <-result:
		return err
	case <-time.After(patience):
		t.Fatal("the helper did not end")
		return nil
	}
}

func TestStreamBothWays(t *testing.T) {
	f, heard, speak := newFake()
	connected := connectFunc(func(context.Context, Service, Options) (Stream, error) { return f, nil })
	to, from, result := start(t, t.Context(), connected)
	question := strings.Repeat("question", 100_000)
	answer := strings.Repeat("answer!!", 100_000) + "0000"
	go func() {
		// What follows the command may come in the same write.
		io.WriteString(to, "connect git-receive-pack\n"+question)
		to.Close()
	}()
	go func() {
		got, _ := io.ReadAll(heard)
		if string(got) != question {
			speak.CloseWithError(errors.New("another question"))
			return
		}
		io.WriteString(speak, answer)
		speak.Close()
	}()
	got, err := io.ReadAll(from)
	if err != nil || string(got) != "\n"+answer {
		t.Errorf("Git heard %d bytes, %v; want %d", len(got), err, len(answer)+1)
	}
	if err := await(t, result); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestEndsWithTheServiceWhileGitHoldsItsHalf(t *testing.T) {
	f, _, speak := newFake()
	to, from, result := start(t, t.Context(), connectFunc(func(context.Context, Service, Options) (Stream, error) { return f, nil }))
	io.WriteString(to, "connect git-upload-pack\n")
	go func() {
		io.WriteString(speak, "x0000")
		speak.Close()
	}()
	if got, err := io.ReadAll(from); err != nil || string(got) != "\nx0000" {
		t.Errorf("Git heard %q, %v", got, err)
	}
	if err := await(t, result); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestEndsWhenGitGoesAway(t *testing.T) {
	t.Run("while connecting", func(t *testing.T) {
		begun := make(chan struct{})
		to, _, result := start(t, t.Context(), connectFunc(func(ctx context.Context, _ Service, _ Options) (Stream, error) {
			close(begun)
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}))
		io.WriteString(to, "connect git-receive-pack\n")
		<-begun
		to.Close()
		if err := await(t, result); err != ErrGitGone {
			t.Errorf("Serve: %v, want ErrGitGone", err)
		}
	})
	t.Run("while a fetch is being answered", func(t *testing.T) {
		f, _, _ := newFake() // never says a word
		to, from, result := start(t, t.Context(), connectFunc(func(context.Context, Service, Options) (Stream, error) { return f, nil }))
		io.WriteString(to, "connect git-upload-pack\n")
		if _, err := from.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		to.Close()
		from.Close()
		await(t, result)
		<-f.closed
	})
}

func TestContextEndsEveryStage(t *testing.T) {
	why := errors.New("enough")
	f, _, _ := newFake()
	connected := make(chan struct{}, 1)
	c := connectFunc(func(context.Context, Service, Options) (Stream, error) {
		connected <- struct{}{}
		return f, nil
	})
	for _, said := range []string{"", "capabilities\n", "connect git-receive-pack\n"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		to, _, result := start(t, ctx, c)
		io.WriteString(to, said)
		if strings.HasPrefix(said, "connect") {
			<-connected
		}
		cancel(why)
		if err := await(t, result); err != why {
			t.Errorf("after %q: %v", said, err)
		}
	}
}

func TestVerdict(t *testing.T) {
	lost := errors.New("connection lost")
	for _, c := range []struct {
		said   string
		asked  string // by Git after that
		status int
		err    error
		want   string
	}{
		{"pack0000", "", 0, nil, ""},
		{"pack", "", 0, nil, ""},
		{"", "", 0, nil, ""},
		{"pack0000", "", 1, nil, ""},
		{"pack0000", "", -1, lost, ""},
		{"pack0000", "0000", -1, lost, ""},
		{"refs0000", "commands and a pack", -1, lost, "connection lost"},
		{"refs0000", "commands and a pack", 1, nil, ""},
		{"0000", "", 128, nil, ""},
		{"pack", "", 128, nil, "git-upload-pack ended with status 128"},
		{"", "", 127, nil, "git-upload-pack ended with status 127"},
		{"pack", "", -1, lost, "connection lost"},
		{"000", "", -1, lost, "connection lost"},
	} {
		for _, chunk := range []int{1, 3, 100} {
			var told tally
			told.asked.Write([]byte("what was answered"))
			for part := []byte(c.said); len(part) > 0; {
				n := min(chunk, len(part))
				told.Write(part[:n])
				part = part[n:]
			}
			told.asked.Write([]byte(c.asked))
			got := ""
			if err := told.verdict(UploadPack, c.status, c.err); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("%q, status %d, %v: %q, want %q", c.said, c.status, c.err, got, c.want)
			}
		}
	}
}

// An answer that is whole before the request is counted is no less an answer to it.
func TestAnswerOvertakesItsRequest(t *testing.T) {
	f, heard, speak := newFake()
	f.status, f.err = -1, errors.New("connection lost")
	s := &quickStream{fakeStream: f, answered: make(chan struct{})}
	to, from, result := start(t, t.Context(), connectFunc(func(context.Context, Service, Options) (Stream, error) { return s, nil }))
	read := func(from io.Reader, want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(from, got); err != nil || string(got) != want {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
	}
	io.WriteString(to, "connect git-upload-pack\n")
	read(from, "\n")
	io.WriteString(to, "what are your refs?")
	read(heard, "what are your refs?")
	io.WriteString(speak, "refs0000")
	read(from, "refs0000")
	close(s.answered) // only now has the request been written
	io.WriteString(to, "0000")
	read(heard, "0000")
	speak.Close()
	if err := await(t, result); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// A quickStream is answered while the request is still being written.
type quickStream struct {
	*fakeStream
	answered chan struct{}
}

func (s *quickStream) Write(p []byte) (int, error) {
	n, err := s.fakeStream.Write(p)
	<-s.answered
	return n, err
}

// Nothing is lost when the helper itself closes what is left of a service, since Git
// has gone away.
func TestEndsAsGitGoesAway(t *testing.T) {
	f, _, speak := newFake()
	s := &endingStream{f, make(chan struct{})}
	to, from, result := start(t, t.Context(), connectFunc(func(context.Context, Service, Options) (Stream, error) { return s, nil }))
	io.WriteString(to, "connect git-upload-pack\n")
	if _, err := from.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	speak.Close()
	<-s.awaited // the output is at its end, and not yet the service
	to.Close()
	from.Close()
	if err := await(t, result); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// An endingStream has not ended when its connection is closed.
type endingStream struct {
	*fakeStream
	awaited chan struct{}
}

func (s *endingStream) Wait() (int, error) {
	close(s.awaited)
	<-s.closed
	return -1, errors.New("connection lost")
}

// A service that keeps its channel open after its output must not keep Git.
func TestLateStatusIsNotWaitedFor(t *testing.T) {
	f, _, speak := newFake()
	s := &slowStream{fakeStream: f, never: make(chan struct{})}
	defer close(s.never)
	to, _, result := start(t, t.Context(), connectFunc(func(context.Context, Service, Options) (Stream, error) { return s, nil }))
	io.WriteString(to, "connect git-upload-pack\n")
	io.WriteString(speak, "0000")
	speak.Close()
	if err := await(t, result); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

type slowStream struct {
	*fakeStream
	never chan struct{}
}

func (s *slowStream) Wait() (int, error) {
	<-s.never
	return 1, nil
}

func FuzzCommands(f *testing.F) {
	f.Add("capabilities\noption verbosity 1\nconnect git-upload-pack\n")
	f.Add("option servpath \"\\303\\\"\"\n\n")
	f.Add("option servpath \"\\777\"\n")
	f.Fuzz(func(t *testing.T, in string) {
		var out bytes.Buffer
		stop := errors.New("stop")
		err := Serve(t.Context(), strings.NewReader(in), &out, connectFunc(func(_ context.Context, s Service, o Options) (Stream, error) {
			if s != UploadPack && s != ReceivePack && s != UploadArchive {
				t.Errorf("connect to %q", s)
			}
			if strings.ContainsAny(o.ServicePath, "\x00\n\r\x1b") {
				t.Errorf("service path %q", o.ServicePath)
			}
			return nil, stop
		}))
		lines := strings.Count(in, "\n")
		if got := strings.Count(out.String(), "\n"); got > 3*lines {
			t.Errorf("%q: %d lines of replies to %d, then %v", in, got, lines, err)
		}
	})
}
