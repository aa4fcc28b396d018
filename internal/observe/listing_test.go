package observe

import (
	"fmt"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

const oid = "1111111111111111111111111111111111111111"

func TestListing(t *testing.T) {
	l := newListing(cluster.SHA1, []cluster.RefPattern{"refs/heads/*", "refs/tags/*", "refs/*"})
	text := "ref: refs/heads/trunk\tHEAD\n" + oid + "\tHEAD\n" +
		oid + "\trefs/heads/trunk\n" + "ref: refs/heads/trunk\trefs/heads/alias\n" + oid + "\trefs/heads/alias\n" +
		oid + "\trefs/tags/v1\n" + oid + "\trefs/tags/v1^{}\n" +
		oid + "\trefs/strays/x\n" + oid + "\trefs/heads/bad..name\n" + oid + "\trefs/stash\n" +
		oid + "\trefs/heads/Trunk\n" + oid + "\trefs/tags/v1/below\n"
	for i := range len(text) { // byte by byte, as a slow remote sends it
		if _, err := l.Write([]byte(text[i : i+1])); err != nil {
			t.Fatal(err)
		}
	}
	l.settle()
	if got := fmt.Sprint(sorted(l.refs)); got != "[refs/heads/Trunk refs/heads/alias refs/tags/v1]" || l.head != "refs/heads/trunk" {
		t.Errorf("it lists %s, HEAD %s", got, l.head)
	}
	if got := strings.Join(l.skipped, "\n"); len(l.skipped) != 4 || !strings.Contains(got, "only in case") || !strings.Contains(got, `is below the ref "refs/tags/v1"`) || !strings.Contains(got, "bad..name") || !strings.Contains(got, "refs/stash") {
		t.Errorf("it leaves out\n%s", got)
	}
}

func TestListingIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		times int
		want  string
	}{
		"too many refs":     {oid + "\tHEAD\n", maxRefs + 1, "more than 1000000 refs"},
		"an endless line":   {"x", maxRefsLine + 1, "a ref of more than"},
		"no list":           {"<html>\n", 1, "has the line"},
		"no object id":      {"zzz\trefs/heads/x\n", 1, "bad object id"},
		"another hash":      {oid + oid[:24] + "\trefs/heads/x\n", 1, "64 digits"},
		"a line of nothing": {"\n", 1, "has the line"},
	} {
		l := newListing(cluster.SHA1, []cluster.RefPattern{"refs/heads/*"})
		_, err := l.Write([]byte(strings.Repeat(c.text, c.times)))
		if err == nil || !strings.Contains(err.Error(), c.want) || l.err == nil {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if _, err := l.Write([]byte(oid + "\trefs/heads/y\n")); err == nil {
			t.Errorf("%s: it goes on", name)
		}
	}
	l := newListing(cluster.SHA1, nil)
	l.bytes = maxListing
	if _, err := l.Write([]byte("x")); err == nil {
		t.Error("an endless list is read to its end")
	}
}

func FuzzListing(f *testing.F) {
	f.Add([]byte("ref: refs/heads/x\tHEAD\n" + oid + "\trefs/heads/x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l := newListing(cluster.SHA1, []cluster.RefPattern{"refs/*"})
		l.Write(text)
		l.settle()
		for ref, value := range l.refs {
			_, refErr := cluster.ParseRefName(string(ref))
			_, oidErr := cluster.ParseOID(string(value))
			if refErr != nil || oidErr != nil || ref.IsHidden() {
				t.Errorf("it lists %q as %q", ref, value)
			}
		}
	})
}
