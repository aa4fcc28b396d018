package pktline

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	var b bytes.Buffer
	longest := strings.Repeat("x", Max-4)
	for _, line := range []string{"a\n", "", longest} {
		if err := Write(&b, line); err != nil {
			t.Fatal(err)
		}
	}
	b.WriteString(Flush)
	in := bufio.NewReader(&b)
	for _, want := range []string{"a\n", "", longest} {
		if line, err := Read(in); err != nil || line == nil || string(line) != want {
			t.Fatalf("%.20q of %d bytes, %v; want %.20q", line, len(line), err, want)
		}
	}
	if line, err := Read(in); line != nil || err != nil {
		t.Errorf("a flush packet is %q, %v", line, err)
	}
	if _, err := Read(in); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for text, want := range map[string]error{
		"00":     io.ErrUnexpectedEOF,
		"0006a":  io.ErrUnexpectedEOF,
		"0006":   io.ErrUnexpectedEOF,
		"0001":   ErrMalformed,
		"0003":   ErrMalformed,
		"fff1":   ErrMalformed,
		"-001x":  ErrMalformed,
		"GET / ": ErrMalformed,
	} {
		if line, err := Read(bufio.NewReader(strings.NewReader(text))); !errors.Is(err, want) {
			t.Errorf("%q is %q, %v; want %v", text, line, err, want)
		}
	}
}
