package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"gitcluster/internal/cluster"
)

const id cluster.RepoID = "0123456789abcdef"

// asked notes the question it was asked.
type asked struct {
	times        int
	wants, haves []cluster.OID
	err          error
}

func (a *asked) WritePack(_ context.Context, repo cluster.RepoID, wants, haves []cluster.OID, w io.Writer) error {
	a.times++
	a.wants, a.haves = wants, haves
	fmt.Fprintf(w, "pack of %s", repo)
	return a.err
}

func oid(n int) cluster.OID { return cluster.OID(fmt.Sprintf("%040x", n)) }

func TestQuestionIsUnderstood(t *testing.T) {
	for _, c := range []struct{ wants, haves int }{{0, 0}, {1, 0}, {1, 1}, {10_000, 300}} {
		var wants, haves []cluster.OID
		for i := range c.wants {
			wants = append(wants, oid(i+1))
		}
		for i := range c.haves {
			haves = append(haves, cluster.OID(strings.Repeat("b", 64)))
			_ = i
		}
		var q, pack bytes.Buffer
		if err := writeQuestion(&q, wants, haves); err != nil {
			t.Fatal(err)
		}
		// However the network cuts it, it is the same question.
		var a asked
		if err := ServePack(t.Context(), &a, id, iotest.HalfReader(&q), &pack); err != nil {
			t.Fatal(err)
		}
		if a.times != 1 || fmt.Sprint(a.wants) != fmt.Sprint(wants) || fmt.Sprint(a.haves) != fmt.Sprint(haves) || pack.String() != "pack of "+string(id) {
			t.Errorf("%v: understood %d wants, %d haves; wrote %q", c, len(a.wants), len(a.haves), &pack)
		}
	}
}

func TestServePackRefuses(t *testing.T) {
	one := string(oid(1))
	for what, question := range map[string]io.Reader{
		"nothing":               strings.NewReader(""),
		"no done":               strings.NewReader("want " + one + "\n"),
		"cut within a line":     strings.NewReader("want " + one + "\ndon"),
		"a short id":            strings.NewReader("want 1234\ndone\n"),
		"no id":                 strings.NewReader("want\ndone\n"),
		"a revision":            strings.NewReader("want HEAD\ndone\n"),
		"an option":             strings.NewReader("want --all\ndone\n"),
		"an exclusion":          strings.NewReader("want ^" + one[:39] + "\ndone\n"),
		"upper case":            strings.NewReader("want " + strings.Repeat("A", 40) + "\ndone\n"),
		"more after the id":     strings.NewReader("want " + one + " --all\ndone\n"),
		"an unknown word":       strings.NewReader("give " + one + "\ndone\n"),
		"an empty line":         strings.NewReader("\ndone\n"),
		"a line too long":       strings.NewReader("want " + strings.Repeat("1", 1<<20) + "\ndone\n"),
		"a word without an end": io.MultiReader(strings.NewReader("want "), endless{}),
		"the connection broke":  io.MultiReader(strings.NewReader("want "+one+"\n"), iotest.ErrReader(errors.New("connection reset"))),
		"binary":                bytes.NewReader([]byte{0, 0xff, '\n', 1, 2, '\n'}),
	} {
		var a asked
		var pack bytes.Buffer
		err := ServePack(t.Context(), &a, id, question, &pack)
		if err == nil || a.times > 0 || pack.Len() > 0 {
			t.Errorf("%s: %v, and %d bytes were written", what, err, pack.Len())
		}
		if err != nil && (len(err.Error()) > 300 || strings.ContainsAny(err.Error(), "\n\x00")) {
			t.Errorf("%s: the error is not fit for a terminal: %q", what, err)
		}
	}
	a := asked{err: errors.New("no such object")}
	if err := ServePack(t.Context(), &a, id, strings.NewReader("want "+one+"\ndone\n"), io.Discard); !errors.Is(err, a.err) {
		t.Errorf("a failure of the other side: %v", err)
	}
}

// endless is a stranger who never stops.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '1'
	}
	return len(p), nil
}

// repeated gives one line for ever.
type repeated struct {
	line string
	rest string
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.rest == "" {
		r.rest = r.line
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func TestAQuestionHasAnEnd(t *testing.T) {
	var a asked
	err := ServePack(t.Context(), &a, id, &repeated{line: "have " + string(oid(1)) + "\n"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxQuestion)) || a.times > 0 {
		t.Errorf("got %v", err)
	}
}

func FuzzServePack(f *testing.F) {
	f.Add("want " + string(oid(1)) + "\nhave " + string(oid(2)) + "\ndone\n")
	f.Add("done\n")
	f.Add("want \x00\n")
	f.Fuzz(func(t *testing.T, question string) {
		var a asked
		err := ServePack(t.Context(), &a, id, strings.NewReader(question), io.Discard)
		if (err == nil) != (a.times == 1) {
			t.Fatalf("%q: %v, asked %d times", question, err, a.times)
		}
		for _, o := range append(a.wants, a.haves...) {
			if _, err := cluster.ParseOID(string(o)); err != nil {
				t.Errorf("%q: passed on %q", question, o)
			}
		}
	})
}

func TestTailIsBounded(t *testing.T) {
	var s tail
	for range 100 {
		if n, err := s.Write(bytes.Repeat([]byte("x"), 100)); n != 100 || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := len(s.String()); got != 1024 {
		t.Errorf("%d bytes were kept", got)
	}
}
