package localsocket

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"
)

func FuzzReadFrame(f *testing.F) {
	for _, seed := range []string{
		"", "\x01", "\x01\x00\x00\x00\x02hi", "\x02\x00\x00\x00\x00", "\x05\x00\x00\x00\x0c{\"status\":1}",
		"\x01\x00\x01\x00\x01", "\x01\xff\xff\xff\xff", "\x00\x00\x00\x00\x00", "\x01\x00\x00\x00\x02h",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		buf := make([]byte, maxFrame)
		var again bytes.Buffer
		for {
			kind, content, err := readFrame(r, buf)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errBadFrame) {
					t.Fatalf("unexpected error %v", err)
				}
				if err == io.EOF && again.Len() != len(data) {
					t.Fatalf("%d bytes of %d taken, then a clean end", again.Len(), len(data))
				}
				break
			}
			w := &frameWriter{w: &again}
			if n, err := w.send(kind, content); err != nil || n != len(content) {
				t.Fatalf("writing it back: %d, %v", n, err)
			}
		}
		if !bytes.HasPrefix(data, again.Bytes()) {
			t.Fatalf("%x became %x", data, again.Bytes())
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	for _, seed := range []string{
		operatorLine,
		`{"kind":"session","command":"c","env":{"GIT_PROTOCOL":"version=2"},"as":{"user":"alice"},"remote":"1.2.3.4:55"}`,
		`{"kind":"session","as":{"device":"x"}}`,
		`{"kind":"hook","hook":"pre-receive","push":"t","env":{"GIT_PUSH_OPTION_0":"x"}}`,
		`{"kind":"hook","KIND":"session"}`, `{}`, `null`, `[`, "\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		req, err := readRequest(bufio.NewReaderSize(bytes.NewReader(append(data, '\n')), maxRequest))
		if err != nil {
			return
		}
		var again request
		if s, err := req.session(); req.Kind == kindSession && err == nil {
			if len(s.Command) > maxCommand || s.As == (SessionRequest{}).As {
				t.Fatalf("accepted %+v", s)
			}
			again = s.wire()
		} else if h, err := req.hook(); req.Kind == kindHook && err == nil {
			if !isToken(h.Push) {
				t.Fatalf("accepted %+v", h)
			}
			again = h.wire()
		} else {
			return
		}
		// What was accepted survives another trip.
		line, err := again.line()
		if err != nil {
			if json.Valid(data) && len(data) < maxRequest/8 {
				t.Fatalf("%+v: %v", again, err)
			}
			return
		}
		if _, err := parseRequest(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	})
}
