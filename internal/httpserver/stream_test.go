package httpserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/service"
)

// Question and answer alternate within one request, so neither side is buffered.
func TestStreamsBothWays(t *testing.T) {
	f := start(t, nil)
	c, r := f.dial(t)
	fmt.Fprintf(c, "POST /pub/git-receive-pack HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YWxpY2U6eA==\r\nContent-Type: application/x-git-receive-pack-request\r\nTransfer-Encoding: chunked\r\n\r\n")
	fmt.Fprint(c, "1\r\n0\r\n")
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	for i := range 20 {
		if _, err := io.ReadFull(answer.Body, one); err != nil || one[0] != byte('0'+i%10) {
			t.Fatalf("letter %d: %q, %v", i, one, err)
		}
		fmt.Fprintf(c, "1\r\n%d\r\n", (i+1)%10)
	}
	fmt.Fprint(c, "0\r\n\r\n")
	if rest, err := io.ReadAll(answer.Body); err != nil || string(rest) != "0" {
		t.Errorf("the end is %q, %v", rest, err)
	}
	// The connection serves on.
	fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	if answer, err := http.ReadResponse(r, nil); err != nil || answer.StatusCode != 200 {
		t.Errorf("the next request: %v, %v", answer, err)
	}

	t.Run("http2", func(t *testing.T) {
		out, in := io.Pipe()
		answers := make(chan *http.Response, 1)
		go func() {
			answer, err := f.client(t, 2).Do(f.request(t, "POST", "/pub/git-receive-pack", "alice", out))
			if err != nil {
				t.Error(err)
				close(answers)
				return
			}
			answers <- answer
		}()
		io.WriteString(in, "a")
		answer := <-answers
		if answer == nil {
			return
		}
		defer answer.Body.Close()
		for range 20 {
			if _, err := io.ReadFull(answer.Body, one); err != nil || one[0] != 'a' {
				t.Fatalf("%q, %v", one, err)
			}
			io.WriteString(in, "a")
		}
		in.Close()
	})
}

// A large push passes through without being held.
func TestLargeBody(t *testing.T) {
	f := start(t, nil)
	const size = 64 << 20
	var most uint64
	f.fake.receive = func(_ context.Context, q service.Request) error {
		buf := make([]byte, 32<<10)
		for n := 0; ; n++ {
			if _, err := q.Stdin.Read(buf); err == io.EOF {
				break
			} else if err != nil {
				return err
			}
			if n%256 == 0 {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		}
		_, err := io.WriteString(q.Stdout, "done")
		return err
	}
	f.versions(t, func(t *testing.T, c *http.Client) {
		answer, text := do(t, c, f.request(t, "POST", "/pub/git-receive-pack", "alice", io.LimitReader(zeros{}, size)))
		if answer.StatusCode != 200 || text != "done" || most > size/2 {
			t.Errorf("%d %q, with %d bytes in use", answer.StatusCode, text, most)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Nobody is asked for a body that would not be taken.
func TestExpectContinue(t *testing.T) {
	f := start(t, nil)
	for user, want := range map[string]string{"": "401", "Authorization: Basic YWxpY2U6eA==\r\n": "100"} {
		c, r := f.dial(t)
		fmt.Fprintf(c, "POST /pub/git-receive-pack HTTP/1.1\r\nHost: x\r\n%sContent-Type: application/x-git-receive-pack-request\r\nContent-Length: 2000000000\r\nExpect: 100-continue\r\n\r\n", user)
		line, err := r.ReadString('\n')
		if err != nil || !strings.Contains(line, want) {
			t.Errorf("%q, %v, want %s", line, err, want)
		}
		if want == "401" {
			if rest, err := io.ReadAll(r); err != nil || bytes.Contains(rest, []byte("HTTP/1.1 100")) {
				t.Errorf("after the refusal: %q, %v", rest, err)
			}
		}
		c.Close()
	}
}

// The rest of a body that was refused is never taken for a request.
func TestRestOfABody(t *testing.T) {
	f := start(t, nil)
	hidden := "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, sends := range map[string]string{
		"at once": hidden, "not at all": "", "in part": hidden[:10],
	} {
		t.Run(name, func(t *testing.T) {
			c, r := f.dial(t)
			fmt.Fprintf(c, "POST /priv/git-upload-pack HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-git-upload-pack-request\r\nContent-Length: %d\r\n\r\n%s", len(hidden), sends)
			answer, err := http.ReadResponse(r, nil)
			if err != nil || answer.StatusCode != 401 {
				t.Fatalf("%v, %v", answer, err)
			}
			io.Copy(io.Discard, answer.Body)
			if sends == hidden {
				fmt.Fprint(c, "GET /gone/info/refs HTTP/1.1\r\nHost: x\r\n\r\n")
				if answer, err := http.ReadResponse(r, nil); err != nil || answer.StatusCode != 403 {
					t.Errorf("the next request is answered by %v, %v", answer, err)
				}
				return
			}
			time.Sleep(linger + 200*time.Millisecond) // for longer than the server waits for the rest
			fmt.Fprint(c, hidden)
			if answer, err := http.ReadResponse(r, nil); err == nil {
				t.Errorf("the rest is answered by %d", answer.StatusCode)
			}
		})
	}
}

// The clock runs while the client has to send or to take something, and at no
// other time.
func TestStall(t *testing.T) {
	const stall = time.Second
	f := start(t, func(o *Options) { o.Limits = Limits{Stall: stall, PushStall: stall} })
	ends := make(chan error, 1)
	f.versions(t, func(t *testing.T, c *http.Client) {
		f.fake.receive = func(_ context.Context, q service.Request) error {
			_, err := io.Copy(io.Discard, q.Stdin)
			ends <- err
			return err
		}
		out, in := io.Pipe()
		defer in.Close()
		go c.Do(f.request(t, "POST", "/pub/git-receive-pack", "alice", out))
		io.WriteString(in, "x")
		select {
		case err := <-ends:
			if err == nil {
				t.Error("a client that does not send has come to its end")
			}
		case <-time.After(patience):
			t.Error("a client that does not send is waited for")
		}

		f.fake.upload = func(ctx context.Context, q service.Request) error {
			buf := make([]byte, 1<<20)
			for {
				if _, err := q.Stdout.Write(buf); err != nil {
					ends <- err
					return err
				}
			}
		}
		// One that fetches has not even begun.
		out, in = io.Pipe()
		defer in.Close()
		go io.WriteString(in, "x")
		if answer, text := do(t, c, f.request(t, "POST", "/pub/git-upload-pack", "", out)); answer.StatusCode != 400 {
			t.Errorf("a slow request for objects: %d %q", answer.StatusCode, text)
		}

		answer, err := c.Do(f.request(t, "POST", "/pub/git-upload-pack", "", strings.NewReader("x")))
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		select {
		case <-ends:
		case <-time.After(patience):
			t.Error("a client that does not take its answer is waited for")
		}
	})
}

// A node that is slow does not hold that against its client.
func TestSlowAnswer(t *testing.T) {
	const stall = 3 * time.Second
	f := start(t, func(o *Options) { o.Limits = Limits{Stall: stall, PushStall: stall} })
	f.fake.upload = func(ctx context.Context, q service.Request) error {
		for range 2 {
			select {
			case <-time.After(stall * 3 / 2):
			case <-ctx.Done():
				return errors.New("the request ended meanwhile")
			}
			io.CopyN(io.Discard, q.Stdin, 1)
			if _, err := io.WriteString(q.Stdout, "x"); err != nil {
				return err
			}
		}
		_, err := io.Copy(io.Discard, q.Stdin)
		return err
	}
	f.versions(t, func(t *testing.T, c *http.Client) {
		for name, body := range map[string]io.Reader{"short": strings.NewReader("x"), "long": io.LimitReader(zeros{}, 4<<20)} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				if answer, text := do(t, c, f.request(t, "POST", "/pub/git-upload-pack", "", body)); answer.StatusCode != 200 || text != "xx" {
					t.Errorf("a slow answer: %d %q", answer.StatusCode, text)
				}
			})
		}
	})
}

// A service that ends while its client still sends is answered for at once, and
// the copier that reads for a process does not outlive the request.
func TestAnswerBeforeTheEnd(t *testing.T) {
	f := start(t, nil)
	copier := make(chan error, 1)
	f.fake.receive = func(_ context.Context, q service.Request) error {
		go func() { _, err := io.Copy(io.Discard, q.Stdin); copier <- err }()
		_, err := io.WriteString(q.Stdout, "enough")
		return err
	}
	f.versions(t, func(t *testing.T, c *http.Client) {
		out, in := io.Pipe()
		go io.Copy(in, zeros{})
		defer in.Close()
		answer, err := c.Do(f.request(t, "POST", "/pub/git-receive-pack", "alice", out))
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		start := time.Now()
		if text, err := io.ReadAll(answer.Body); err != nil || !bytes.Equal(text, []byte("enough")) {
			t.Errorf("%q, %v", text, err)
		}
		if took := time.Since(start); took > patience/2 {
			t.Errorf("the answer took %v", took)
		}
		select {
		case <-copier:
		case <-time.After(patience):
			t.Fatal("the body is read on")
		}
	})
}
