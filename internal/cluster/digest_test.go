package cluster

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func oid(n int) OID { return OID(fmt.Sprintf("%040x", n)) }

func digestOf(refs map[RefName]OID) Digest {
	var d Digest
	for ref, value := range refs {
		d.Add(string(ref), string(value))
	}
	return d
}

func TestDigestDependsOnTheSetAlone(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	refs := map[RefName]OID{}
	var d Digest
	for step := range 500 {
		ref := RefName(fmt.Sprintf("refs/heads/%d", rng.IntN(40)))
		u := RefUpdate{Ref: ref, Old: refs[ref]}
		if u.Old == "" && rng.IntN(2) == 0 {
			u.Old = SHA1.Zero()
		}
		if rng.IntN(3) > 0 {
			u.New = oid(1 + rng.IntN(5))
		} else if rng.IntN(2) == 0 {
			u.New = SHA1.Zero()
		}
		d.Apply([]RefUpdate{u})
		if u.New.IsZero() {
			delete(refs, ref)
		} else {
			refs[ref] = u.New
		}
		if d != digestOf(refs) {
			t.Fatalf("step %d: %+v: the digest is not that of the %d refs", step, u, len(refs))
		}
	}
	for ref, value := range refs {
		d.Remove(string(ref), string(value))
	}
	if d != (Digest{}) {
		t.Error("after taking everything out, the digest is not that of the empty set")
	}
}

func TestDigestOfDifferentSetsDiffers(t *testing.T) {
	seen := map[Digest]string{}
	add := func(what string, d Digest) {
		if other, ok := seen[d]; ok {
			t.Errorf("%s and %s have the same digest", what, other)
		}
		seen[d] = what
	}
	add("nothing", Digest{})
	add("one", digestOf(map[RefName]OID{"refs/heads/a": oid(1)}))
	add("another value", digestOf(map[RefName]OID{"refs/heads/a": oid(2)}))
	add("another name", digestOf(map[RefName]OID{"refs/heads/b": oid(1)}))
	add("both", digestOf(map[RefName]OID{"refs/heads/a": oid(1), "refs/heads/b": oid(2)}))
	add("swapped", digestOf(map[RefName]OID{"refs/heads/a": oid(2), "refs/heads/b": oid(1)}))
	var head, other, twice, cut Digest
	head.MoveHead("", "refs/heads/a")
	add("HEAD", head)
	other.MoveHead("", "refs/heads/b")
	add("another HEAD", other)
	twice.Add("refs/heads/a", string(oid(1)))
	twice.Add("refs/heads/a", string(oid(1)))
	add("one twice", twice)
	cut.Add("refs/heads/a"+string(oid(1)[:1]), string(oid(1)[1:]))
	add("the boundary between name and value elsewhere", cut)
}

func TestDigestMoveHead(t *testing.T) {
	var a, b Digest
	a.MoveHead("", "refs/heads/x")
	a.MoveHead("refs/heads/x", "refs/heads/y")
	b.MoveHead("", "refs/heads/y")
	if a != b {
		t.Error("two ways to the same HEAD give two digests")
	}
	b.MoveHead("refs/heads/y", "refs/heads/y")
	if a != b {
		t.Error("moving HEAD to where it is changes the digest")
	}
	b.MoveHead("refs/heads/y", "")
	if b != (Digest{}) {
		t.Error("without HEAD the digest is not that of the empty set")
	}
}

func TestDigestText(t *testing.T) {
	want := Position{Epoch: 3, Version: 7, Digest: digestOf(map[RefName]OID{"refs/heads/a": oid(1), "refs/heads/b": oid(2)})}
	for _, p := range []Position{want, {}} {
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		got := Position{Digest: want.Digest} // must be overwritten
		if err := json.Unmarshal(data, &got); err != nil || got != p {
			t.Errorf("%s: got %v, %v", data, got, err)
		}
	}
	text, err := want.Digest.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"x", string(text[1:]), string(text) + "A", strings.ToLower(string(text)) + "=", strings.Repeat("!", len(text)), "AAAA"} {
		var d Digest
		if err := d.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("digest of %d characters %.20q… was accepted", len(bad), bad)
		}
	}
	if a, b := want.Digest.String(), (Digest{}).String(); a == b || len(a) != 12 {
		t.Errorf("short forms %q and %q", a, b)
	}
}

func TestReached(t *testing.T) {
	at := Position{Epoch: 2, Version: 5}
	for p, want := range map[Position]bool{{Epoch: 2, Version: 5}: true, {Epoch: 2, Version: 6}: true, {Epoch: 2, Version: 4}: false, {Epoch: 3, Version: 9}: false, {Epoch: 1, Version: 9}: false} {
		if p.Reached(at) != want {
			t.Errorf("%v has reached %v: %v", p, at, !want)
		}
	}
}
