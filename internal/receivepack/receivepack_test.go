package receivepack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
	"gitcluster/internal/pktline"
	"gitcluster/internal/sideband"
)

const (
	zero = "0000000000000000000000000000000000000000"
	one  = "1111111111111111111111111111111111111111"
	two  = "2222222222222222222222222222222222222222"
)

// packets writes lines as packets; "" is a flush packet.
func packets(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		if line == "" {
			b.WriteString(pktline.Flush)
		} else {
			pktline.Write(&b, line)
		}
	}
	return b.String()
}

const usual = "\x00 report-status-v2 side-band-64k object-format=sha1 agent=git/2"

func TestRead(t *testing.T) {
	command := zero + " " + one + " refs/heads/a"
	for name, c := range map[string]struct {
		said   string
		format cluster.ObjectFormat
		want   Request
	}{
		"nothing to do": {said: packets("")},
		"one ref": {said: packets(command+usual, ""),
			want: Request{Updates: []cluster.RefUpdate{{Ref: "refs/heads/a", Old: zero, New: one}}}},
		"two, a line feed": {said: packets(command+usual+"\n", two+" "+zero+" refs/heads/b\n", ""),
			want: Request{Updates: []cluster.RefUpdate{{Ref: "refs/heads/a", Old: zero, New: one}, {Ref: "refs/heads/b", Old: two, New: zero}}}},
		"all that one may ask for": {said: packets(command+usual+" atomic quiet push-options", "", "ci.skip", "a b", ""),
			want: Request{Updates: []cluster.RefUpdate{{Ref: "refs/heads/a", Old: zero, New: one}}, Atomic: true, Quiet: true, Options: []string{"ci.skip", "a b"}}},
		"without a format":        {said: packets(command+"\x00report-status side-band-64k", ""), want: Request{Updates: []cluster.RefUpdate{{Ref: "refs/heads/a", Old: zero, New: one}}}},
		"a certificate":           {said: packets("push-cert\x00report-status side-band-64k\n", "certificate version 0.1\n", "push-cert-end\n", ""), want: Request{Odd: true}},
		"a shallow repository":    {said: packets("shallow "+one, command+usual, ""), want: Request{Odd: true}},
		"no report":               {said: packets(command+"\x00side-band-64k", ""), want: Request{Odd: true}},
		"no bands":                {said: packets(command+"\x00report-status", ""), want: Request{Odd: true}},
		"no features":             {said: packets(command, ""), want: Request{Odd: true}},
		"features twice":          {said: packets(command+usual, command+usual, ""), want: Request{Odd: true}},
		"another format":          {said: packets(command+"\x00report-status side-band-64k object-format=sha256", ""), want: Request{Odd: true}},
		"of a SHA-256 repository": {said: packets(command+usual, ""), format: cluster.SHA256, want: Request{Odd: true}},
		"an id of another width":  {said: packets(command+usual, zero+" "+strings.Repeat("1", 64)+" refs/heads/b", ""), want: Request{Odd: true}},
		"no ref":                  {said: packets(zero+" "+one+" "+usual, ""), want: Request{Odd: true}},
		"nonsense":                {said: packets("hello"+usual, ""), want: Request{Odd: true}},
		"a very long name":        {said: packets(command+strings.Repeat("x", 5000)+usual, ""), want: Request{Odd: true}},
	} {
		if c.format == "" {
			c.format = cluster.SHA1
		}
		rest := "PACK and so on"
		in := bufio.NewReader(strings.NewReader(c.said + rest))
		got, err := Read(in, c.format)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		left, _ := io.ReadAll(in)
		if all := string(got.Said) + string(left); all != c.said+rest {
			t.Errorf("%s: what was read and the rest are\n%q, not\n%q", name, all, c.said+rest)
		}
		if got.Odd != c.want.Odd {
			t.Errorf("%s: odd: %v", name, got.Odd)
		}
		if !c.want.Odd && (!slices.Equal(got.Updates, c.want.Updates) || got.Atomic != c.want.Atomic || got.Quiet != c.want.Quiet || !slices.Equal(got.Options, c.want.Options)) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestReadBounds(t *testing.T) {
	for name, said := range map[string]string{
		"nothing at all":        "",
		"half a packet":         packets(zero + " " + one + " refs/heads/a" + usual)[:50],
		"no end":                packets(zero + " " + one + " refs/heads/a" + usual),
		"no end of its options": packets(zero+" "+one+" refs/heads/a"+usual+" push-options", "", "x"),
	} {
		if _, err := Read(bufio.NewReader(strings.NewReader(said)), cluster.SHA1); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Read(bufio.NewReader(strings.NewReader("GET / HTTP/1.1")), cluster.SHA1); !errors.Is(err, pktline.ErrMalformed) {
		t.Errorf("another protocol: %v", err)
	}
	line := zero + " " + one + " refs/heads/" + strings.Repeat("a", 1000)
	endless := io.MultiReader(strings.NewReader(packets(line+usual)), forever(packets(line)))
	if q, err := Read(bufio.NewReader(endless), cluster.SHA1); err != nil || !q.Odd || len(q.Said) > 5<<20 {
		t.Errorf("an endless list: %v, odd %v, %d bytes", err, q.Odd, len(q.Said))
	}
	endless = io.MultiReader(strings.NewReader(packets(line+usual+" push-options", "")), forever(packets("x")))
	if q, err := Read(bufio.NewReader(endless), cluster.SHA1); err != nil || !q.Odd || len(q.Options) > 2*maxOptions {
		t.Errorf("endless options: %v, odd %v, %d", err, q.Odd, len(q.Options))
	}
}

// forever reads the same again and again.
type forever string

func (f forever) Read(p []byte) (int, error) {
	n := len(p) - len(p)%len(f)
	if n == 0 {
		return copy(p, f), nil
	}
	return copy(p, strings.Repeat(string(f), n/len(f))), nil
}

// TestAdvertise compares a listing with that of Git's own receive-pack.
func TestAdvertise(t *testing.T) {
	for _, format := range []cluster.ObjectFormat{cluster.SHA1, cluster.SHA256} {
		for _, empty := range []bool{true, false} {
			dir := filepath.Join(t.TempDir(), "a.git")
			git := func(args ...string) string {
				t.Helper()
				cmd := exec.Command("git", args...)
				cmd.Env = append(os.Environ(), "HOME="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull,
					"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@x", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@x")
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("git %v: %v", args, err)
				}
				return string(out)
			}
			git("init", "-q", "--bare", "--object-format="+string(format), dir)
			refs := map[cluster.RefName]cluster.OID{}
			if !empty {
				tree := strings.TrimSpace(git("-C", dir, "hash-object", "-t", "tree", "-w", os.DevNull))
				commit := strings.TrimSpace(git("-C", dir, "commit-tree", "-m", "x", tree))
				for _, ref := range []string{"refs/heads/b", "refs/heads/a", "refs/tags/v1", "refs/changes/1"} {
					git("-C", dir, "update-ref", ref, commit)
					refs[cluster.RefName(ref)] = cluster.OID(commit)
				}
			}
			want := git("-c", "receive.advertisePushOptions=true", "-c", "receive.certNonceSeed=x", "receive-pack", "--http-backend-info-refs", dir)
			var got bytes.Buffer
			err := Advertise(&got, Offers{Format: format, Nonce: "1-2", Agent: "x/1"}, func(yield func(cluster.RefName, cluster.OID) bool) {
				for _, ref := range slices.Sorted(maps.Keys(refs)) {
					if !yield(ref, refs[ref]) {
						return
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if g, w := listing(t, got.String()), listing(t, want); g != w {
				t.Errorf("%s, empty %v: the listing is\n%s\nand Git's\n%s", format, empty, g, w)
			}
		}
	}
	var got bytes.Buffer
	if err := Advertise(&got, Offers{Format: cluster.SHA1, Version: 1}, func(func(cluster.RefName, cluster.OID) bool) {}); err != nil || !strings.HasPrefix(got.String(), "000eversion 1\n") {
		t.Errorf("of version 1: %.30q, %v", got.String(), err)
	}
	if strings.Contains(got.String(), "push-cert") {
		t.Error("it has no nonce, and offers to take a certificate")
	}
}

// listing is a listing in a form that can be compared: features in order, without their
// server's name and nonce.
func listing(t *testing.T, text string) string {
	t.Helper()
	var b strings.Builder
	in := bufio.NewReader(strings.NewReader(text))
	for {
		line, err := pktline.Read(in)
		if err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		if line == nil {
			return b.String()
		}
		ref, features, first := strings.Cut(string(line), "\x00")
		fmt.Fprintln(&b, strings.TrimSpace(ref))
		if first {
			all := strings.Fields(features)
			for i, f := range all {
				if name, _, _ := strings.Cut(f, "="); name == "agent" || name == "push-cert" {
					all[i] = name
				}
			}
			slices.Sort(all)
			fmt.Fprintln(&b, all)
		}
	}
}

// TestBand reads what a band carries as a client does.
func TestBand(t *testing.T) {
	var w bytes.Buffer
	b := NewBand(&w)
	long := strings.Repeat("progress ", 20_000)
	for _, text := range []string{"# hello\n", "a\x00b", "\x00", long} {
		if n, err := b.Write([]byte(text)); err != nil || n != len(text) {
			t.Fatal(n, err)
		}
	}
	if err := b.Report("", []cluster.RefResult{{Ref: "refs/heads/a"}, {Ref: "refs/heads/b", Refused: "no\nok refs/heads/c"}}); err != nil {
		t.Fatal(err)
	}
	b.Close()
	var told, report strings.Builder
	in := bufio.NewReader(&w)
	for {
		line, err := pktline.Read(in)
		if err != nil {
			t.Fatal(err)
		}
		if line == nil {
			break
		}
		switch line[0] {
		case byte(sideband.Progress):
			told.Write(line[1:])
		case byte(sideband.Data):
			report.Write(line[1:])
		}
	}
	if told.String() != "# hello\nab"+long {
		t.Errorf("a person is told %.40q, %d bytes", told.String(), told.Len())
	}
	if want := packets("unpack ok\n", "ok refs/heads/a\n", "ng refs/heads/b no ok refs/heads/c\n", ""); report.String() != want {
		t.Errorf("the report is %q, want %q", report.String(), want)
	}
	if rest, _ := io.ReadAll(in); len(rest) > 0 {
		t.Errorf("more follows: %q", rest)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(packets(zero+" "+one+" refs/heads/a"+usual+" push-options", "", "x", "")))
	f.Add([]byte(packets("shallow "+one, "")))
	f.Add([]byte("0000"))
	f.Fuzz(func(t *testing.T, said []byte) {
		in := bufio.NewReader(bytes.NewReader(said))
		q, err := Read(in, cluster.SHA1)
		if err != nil {
			return
		}
		rest, _ := io.ReadAll(in)
		if all := append(slices.Clone(q.Said), rest...); !bytes.EqualFold(all, said) {
			t.Errorf("%q was read as %q", said, all)
		}
	})
}
