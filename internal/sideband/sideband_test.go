package sideband

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"gitcluster/internal/pktline"
)

// read takes apart what a mux wrote, up to its flush packet.
func read(t *testing.T, in *bufio.Reader) map[Band]string {
	t.Helper()
	said := map[Band]string{}
	for {
		line, err := pktline.Read(in)
		if err != nil {
			t.Fatal(err)
		}
		if line == nil {
			return said
		}
		said[Band(line[0])] += string(line[1:])
	}
}

func TestMux(t *testing.T) {
	var w bytes.Buffer
	m := New(&w)
	long := strings.Repeat("data ", 50_000)
	if err := m.Send(Progress, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(Writer{m, Data}, strings.NewReader(long)); n != int64(len(long)) || err != nil {
		t.Fatal(n, err)
	}
	if n, err := (Writer{m, Data}).Write([]byte(long)); n != len(long) || err != nil {
		t.Fatal(n, err)
	}
	if n, err := m.Copy(Data, iotest.DataErrReader(strings.NewReader("end"))); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	broken := errors.New("broken")
	if _, err := m.Copy(Data, iotest.ErrReader(broken)); err != broken {
		t.Fatal(err)
	}
	m.Send(Fatal, []byte("why"))
	m.Flush()
	m.Close()
	in := bufio.NewReader(&w)
	said := read(t, in)
	if said[Data] != long+long+"end" || said[Progress] != "hello" || said[Fatal] != "why" || len(said) != 3 {
		t.Errorf("%d bytes of data; %q, %q", len(said[Data]), said[Progress], said[Fatal])
	}
	if rest, _ := io.ReadAll(in); len(rest) > 0 {
		t.Errorf("more follows: %q", rest)
	}
}

// TestAlive is a server that is silent for long, and one that has said all.
func TestAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, in := io.Pipe()
		m := New(in)
		m.Alive(Data)
		wait := make(chan struct{})
		go func() {
			defer in.Close()
			defer m.Close()
			<-wait
			m.Send(Data, []byte("x"))
			m.Flush()
			synctest.Wait()
		}()
		r := bufio.NewReader(out)
		for range 2 {
			if line, err := pktline.Read(r); err != nil || string(line) != "\x01" {
				t.Fatalf("in a silence: %q, %v", line, err)
			}
		}
		close(wait)
		if said := read(t, r); said[Data] != "x" {
			t.Errorf("%q", said)
		}
		if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
			t.Errorf("more follows: %q, %v", rest, err)
		}
	})
}
