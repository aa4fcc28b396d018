package procreceive

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

const (
	zero = "0000000000000000000000000000000000000000"
	one  = "1111111111111111111111111111111111111111"
)

func packets(lines ...string) string {
	var b strings.Builder
	for _, l := range lines {
		if l == "" {
			b.WriteString("0000")
		} else {
			fmt.Fprintf(&b, "%04x%s", len(l)+4, l)
		}
	}
	return b.String()
}

func TestServe(t *testing.T) {
	in := packets("version=1\x00atomic push-options\n", "", zero+" "+one+" refs/heads/a", one+" "+zero+" refs/heads/b\n", "", "ci.skip", "")
	var out bytes.Buffer
	err := Serve(strings.NewReader(in), &out, func(q Request) ([]cluster.RefResult, error) {
		if !q.Atomic || len(q.Updates) != 2 || q.Updates[1].Ref != "refs/heads/b" || len(q.Options) != 1 || q.Options[0] != "ci.skip" {
			t.Errorf("got %+v", q)
		}
		return []cluster.RefResult{{Ref: "refs/heads/a"}, {Ref: "refs/heads/b", Refused: "stale\ninfo"}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := packets("version=1\x00push-options\n", "", "ok refs/heads/a\n", "ng refs/heads/b stale info\n", "")
	if out.String() != want {
		t.Errorf("answered %q, want %q", out.String(), want)
	}
}

func TestServeRefusesMalformedInput(t *testing.T) {
	hello := packets("version=1\n", "")
	for name, in := range map[string]string{
		"nothing":           "",
		"another version":   packets("version=2\n", ""),
		"no flush":          packets("version=1\n", "version=1\n"),
		"oversized":         hello + "ffff" + strings.Repeat("a", 65535),
		"undersized":        hello + "0003",
		"not hexadecimal":   hello + "zzzz",
		"signed length":     hello + "-001",
		"cut short":         hello + "0040abc",
		"a command's parts": hello + packets("x", ""),
		"bad object id":     hello + packets("xyz "+one+" refs/heads/a", ""),
		"mixed formats":     hello + packets(one+" "+strings.Repeat("1", 64)+" refs/heads/a", ""),
		"no end":            hello + packets(zero+" "+one+" refs/heads/a"),
	} {
		t.Run(name, func(t *testing.T) {
			err := Serve(strings.NewReader(in), &bytes.Buffer{}, func(Request) ([]cluster.RefResult, error) {
				t.Error("it was put to a decision")
				return nil, nil
			})
			if !errors.Is(err, errProtocol) {
				t.Errorf("got %v, want %v", err, errProtocol)
			}
		})
	}
}

func FuzzServe(f *testing.F) {
	f.Add([]byte(packets("version=1\x00atomic push-options\n", "", zero+" "+one+" refs/heads/a", "", "o", "")))
	f.Add([]byte("0004"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		Serve(bytes.NewReader(in), &out, func(q Request) ([]cluster.RefResult, error) {
			var all []cluster.RefResult
			for _, u := range q.Updates {
				all = append(all, cluster.RefResult{Ref: u.Ref, Refused: string(u.Ref)})
			}
			return all, nil
		})
		ReadCommands(bytes.NewReader(in))
	})
}
