package credential

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReadRequest(t *testing.T) {
	for in, want := range map[string]Request{
		"": {},
		"protocol=https\nhost=a:8443\nusername=b\ncapability[]=authtype\ncapability[]=state\n": {"https", "a:8443", "b", true},
		"capability[]=state\nprotocol=ssh\nhost=a":                                             {Protocol: "ssh", Host: "a"},
		"host=a\n\nhost=b\n": {Host: "a"},
		"host=a\nhost=b\n":   {Host: "b"},
		"host=a=b\r\nwwwauth[]=Basic realm=\"x\"\npassword_expiry_utc=1\npath=x\n": {Host: "a=b"},
	} {
		if got, err := ReadRequest(strings.NewReader(in)); err != nil || got != want {
			t.Errorf("%q: got %+v, %v", in, got, err)
		}
	}
	for name, in := range map[string]io.Reader{
		"no =":        strings.NewReader("protocol=https\nsecret\n"),
		"no key":      strings.NewReader("=secret\n"),
		"a NUL":       strings.NewReader("host=a\x00secret\n"),
		"a long line": strings.NewReader("host=" + strings.Repeat("a", maxLine) + "\n"),
		"many lines":  strings.NewReader(strings.Repeat("a=secret\n", maxRequest/9+1)),
		"no end":      endless{},
		"no stream":   iotest.ErrReader(errors.New("no stream")),
	} {
		got, err := ReadRequest(in)
		if err == nil || got != (Request{}) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = "a=b\n"[i%4]
	}
	return len(p) &^ 3, nil
}

// writes counts the calls and keeps what came.
type writes struct {
	calls int
	bytes.Buffer
}

func (w *writes) Write(p []byte) (int, error) {
	w.calls++
	return w.Buffer.Write(p)
}

func TestAnswersAreWholeOrNothing(t *testing.T) {
	for _, c := range []struct {
		answer Answer
		want   string
		calls  int
	}{
		{nil, "", 0},
		{quit, "quit=1\n", 1},
		{Answer{{"username", "a"}, {"password", "b=c"}}, "username=a\npassword=b=c\n", 1},
		{Answer{{"username", "a"}, {"identityfile", "/a\nquit=0"}}, "", 0},
		{Answer{{"username", "a"}, {"identityfile", "/a\r"}}, "", 0},
		{Answer{{"username", "a"}, {"identityfile", "/a\x00"}}, "", 0},
	} {
		var w writes
		n, err := c.answer.WriteTo(&w)
		if w.String() != c.want || w.calls != c.calls || n != int64(len(c.want)) || (err != nil) != (c.want == "" && c.answer != nil) {
			t.Errorf("%q: wrote %q in %d calls, %d, %v", c.answer, w.String(), w.calls, n, err)
		}
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte("protocol=https\nhost=a\ncapability[]=authtype\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		q, err := ReadRequest(bytes.NewReader(in))
		if err != nil && q != (Request{}) {
			t.Errorf("%q: with the error comes %+v", in, q)
		}
		if strings.ContainsAny(q.Protocol+q.Host+q.Username, "\n\x00") {
			t.Errorf("%q: %+v", in, q)
		}
	})
}
