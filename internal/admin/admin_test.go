package admin

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
)

func TestMalformedRequests(t *testing.T) {
	w := newWorld(t)
	before := w.state()
	for what, in := range map[string]string{
		"nothing":        "",
		"text":           "hello",
		"cut short":      `{"method":"user.list"`,
		"a list":         `[]`,
		"wrong types":    `{"method":7}`,
		"no parameters":  `{"method":"user.add"}`,
		"odd parameters": `{"method":"user.add","params":[1,2]}`,
		"no method":      `{"method":""}`,
		"unknown":        `{"method":"format.disk","params":{}}`,
		"too large":      `{"method":"user.add","params":{"user":"` + strings.Repeat("x", maxRequest) + `"}}`,
		"deep":           strings.Repeat("[", 100_000),
		"binary":         "\x00\xff\x01",
	} {
		var out bytes.Buffer
		status := w.Serve(t.Context(), operator, strings.NewReader(in), &out, io.Discard)
		var a response
		if err := json.Unmarshal(out.Bytes(), &a); err != nil || a.Error == "" || a.Result != nil || status == 0 {
			t.Errorf("%s: status %d, answer %q", what, status, &out)
		}
		if out.Len() > 2000 {
			t.Errorf("%s: the answer has %d bytes", what, out.Len())
		}
	}
	if after := w.state(); after != before {
		t.Errorf("the journal changed:\n%s\nwas\n%s", after, before)
	}
}

// Whoever is no administrator changes nothing and learns nothing.
func TestOnlyAdministratorsAdminister(t *testing.T) {
	w := newWorld(t)
	requests := map[string]any{
		"status":       struct{}{},
		"user.list":    struct{}{},
		"user.add":     UserAdd{User: "eve", Admin: true},
		"user.remove":  UserName{User: "alice"},
		"key.find":     KeyFind{Key: newKey(t)},
		"key.add":      KeyChange{User: "root", Key: newKey(t)},
		"key.remove":   KeyChange{User: "alice", Key: "x"},
		"grant.list":   struct{}{},
		"grant":        GrantChange{Subject: "alice", Role: "admin", Pattern: "*"},
		"revoke":       GrantChange{Subject: "alice", Pattern: "*"},
		"device.list":  struct{}{},
		"token.create": TokenCreate{Kind: "node", Valid: time.Hour},
		"no.such":      struct{}{},
	}
	before := w.state()
	for _, id := range []cluster.Identity{nobody, alice, {User: "stranger"}, {Device: "node1"}, {User: "alice", Device: "node1"}, {User: "alice", Operator: true}} {
		for method, params := range requests {
			w.refused(id, method, params, cluster.ErrDenied.Error())
		}
	}
	if after := w.state(); after != before {
		t.Errorf("the journal changed:\n%s\nwas\n%s", after, before)
	}
	for _, id := range []cluster.Identity{operator, root} {
		var users []cluster.User
		w.must(id, "user.list", struct{}{}, &users)
		if len(users) != 3 {
			t.Errorf("as %s: %v", id, users)
		}
		var st Status
		w.must(id, "status", struct{}{}, &st)
		if st.Cluster != "test" || len(st.Nodes) != 1 || st.Nodes[0].Journal != "client" {
			t.Errorf("as %s: %+v", id, st)
		}
	}
	w.refused(operator, "no.such", struct{}{}, "unknown method")
}

func TestUsersAndKeys(t *testing.T) {
	w := newWorld(t)
	one, two := newKey(t), newKey(t)
	w.must(root, "user.add", UserAdd{User: "carol", Keys: []string{one + " carol@home"}}, nil)
	w.refused(root, "user.add", UserAdd{User: "carol"}, "exists")
	w.refused(root, "user.add", UserAdd{User: "dave", Keys: []string{two, one}}, `that of user "carol"`)
	for _, name := range []cluster.UserName{"", "@all", "a/b", "-x", "device/x"} {
		w.refused(root, "user.add", UserAdd{User: name}, "bad user name")
	}
	for _, key := range []string{"", "x", "ssh-ed25519", "ssh-ed25519 AAAA", `command="sh" ` + two, "no-pty " + two, "-----BEGIN OPENSSH PRIVATE KEY-----"} {
		w.refused(root, "key.add", KeyChange{User: "carol", Key: key}, "key")
	}
	w.refused(root, "key.add", KeyChange{User: "carol", Key: one}, `that of user "carol"`)
	w.refused(root, "key.add", KeyChange{User: "stranger", Key: two}, "not found")
	devices, err := w.Journal.Directory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.refused(root, "key.add", KeyChange{User: "carol", Key: devices.Devices[0].PublicKey}, `that of device "node1"`)
	w.must(root, "key.add", KeyChange{User: "carol", Key: two + " carol at work\n"}, nil)
	find := func(key string) KeyOwner {
		t.Helper()
		var owner KeyOwner
		w.must(root, "key.find", KeyFind{Key: key}, &owner)
		return owner
	}
	if got := find(two); got != (KeyOwner{User: "carol"}) {
		t.Errorf("the second key is %+v's", got)
	}
	if got := find(devices.Devices[0].PublicKey); got != (KeyOwner{Device: "node1"}) {
		t.Errorf("the node's key is %+v's", got)
	}
	if got := find(newKey(t)); got != (KeyOwner{}) {
		t.Errorf("a new key is %+v's", got)
	}
	w.refused(root, "key.find", KeyFind{Key: "x"}, "no SSH public key")
	w.refused(root, "key.remove", KeyChange{User: "carol", Key: "carol at"}, "no key")
	w.refused(root, "key.remove", KeyChange{User: "carol", Key: ""}, "no key")
	w.must(root, "key.remove", KeyChange{User: "carol", Key: "carol at work"}, nil)
	w.must(root, "key.remove", KeyChange{User: "carol", Key: fingerprint(t, one)}, nil)
	w.refused(root, "key.remove", KeyChange{User: "carol", Key: one}, "no key")
	if got := find(one); got != (KeyOwner{}) {
		t.Errorf("a key that was removed is %+v's", got)
	}
	w.must(root, "user.remove", UserName{User: "carol"}, nil)
	w.refused(root, "user.remove", UserName{User: "carol"}, "not found")
}

// A key that is given twice in one request is there once.
func TestUserAddWithOneKeyTwice(t *testing.T) {
	w := newWorld(t)
	key := newKey(t)
	if err := w.ask(root, "user.add", UserAdd{User: "carol", Keys: []string{key, key + " again"}}, nil); err != nil {
		return // refusing it is as good
	}
	var users []cluster.User
	w.must(root, "user.list", struct{}{}, &users)
	for _, u := range users {
		if u.Name == "carol" && len(u.Keys) != 1 {
			t.Errorf("carol has the keys %q", u.Keys)
		}
	}
}

func TestGrants(t *testing.T) {
	w := newWorld(t)
	for _, g := range []GrantChange{{"alice", "read", "team/*"}, {"@all", "read", "*"}, {"device/node1", "write", "a"}, {"alice", "admin", "team/*"}} {
		w.must(root, "grant", g, nil)
	}
	for _, c := range []struct {
		g    GrantChange
		want string
	}{
		{GrantChange{"alice", "owner", "a"}, "unknown role"},
		{GrantChange{"alice", "none", "a"}, "unknown role"},
		{GrantChange{"alice", "read", "a*"}, "bad pattern"},
		{GrantChange{"alice", "read", "../*"}, "bad pattern"},
		{GrantChange{"alice", "read", ""}, "bad pattern"},
		{GrantChange{"stranger", "read", "a"}, "not found"},
		{GrantChange{"device/stranger", "read", "a"}, "not found"},
		{GrantChange{"node1", "read", "a"}, "not found"},
		{GrantChange{"", "read", "a"}, "not found"},
	} {
		w.refused(root, "grant", c.g, c.want)
	}
	var got []cluster.Grant
	w.must(root, "grant.list", struct{}{}, &got)
	want := []cluster.Grant{{Subject: "alice", Pattern: "team/*", Role: cluster.RoleAdmin}, {Subject: "@all", Pattern: "*", Role: cluster.RoleRead}, {Subject: "device/node1", Pattern: "a", Role: cluster.RoleWrite}}
	if len(got) != len(want) || slices.ContainsFunc(want, func(g cluster.Grant) bool { return !slices.Contains(got, g) }) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	w.must(root, "revoke", GrantChange{Subject: "alice", Pattern: "team/*"}, nil)
	w.refused(root, "revoke", GrantChange{Subject: "alice", Pattern: "team/*"}, "not found")
	w.refused(root, "revoke", GrantChange{Subject: "alice", Pattern: "team"}, "not found")
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	var token Token
	w.must(root, "token.create", TokenCreate{Kind: "node", Valid: time.Hour}, &token)
	id, secret, err := ParseToken(" " + token.Token + "\n")
	if err != nil {
		t.Fatal(err)
	}
	kept, err := w.Journal.Token(t.Context(), id)
	if err != nil || !bytes.Equal(kept.Secret, secret) || kept.Kind != "node" || time.Until(kept.Expires) > time.Hour {
		t.Errorf("kept %+v, %v", kept, err)
	}
	if got := FormatToken(id, secret); got != token.Token {
		t.Errorf("%q is written again as %q", token.Token, got)
	}
	for _, c := range []TokenCreate{{"", time.Hour}, {"admin", time.Hour}, {"node", 0}, {"node", -1}, {"node", 31 * 24 * time.Hour}} {
		if err := w.ask(root, "token.create", c, nil); err == nil {
			t.Errorf("%+v was given", c)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(FormatToken("0123456789abcdef", bytes.Repeat([]byte{0xfb, 0xff}, 16)))
	f.Add("gcjoin-")
	f.Add("gcjoin-0123456789abcdef-")
	f.Fuzz(func(t *testing.T, s string) {
		id, secret, err := ParseToken(s)
		if err != nil {
			if id != "" || secret != nil {
				t.Errorf("%q: both an error and %q", s, id)
			}
			return
		}
		if again, other, err := ParseToken(FormatToken(id, secret)); err != nil || again != id || !bytes.Equal(other, secret) || len(secret) != 32 {
			t.Errorf("%q: comes back as %q, %v", s, again, err)
		}
	})
}

// What a node answers reaches the caller; silence is an error.
func TestCall(t *testing.T) {
	for answer, want := range map[string]string{
		`{"result":{"token":"x"}}`:            "",
		`{"error":"no","hint":"try"}`:         "no",
		``:                                    "gave no answer",
		`Welcome to git-cluster`:              "gave no answer",
		`{"result":7}`:                        "unmarshal",
		`{"error":"both","result":{"x":"y"}}`: "both",
	} {
		var sent closer
		var token Token
		err := Call(strings.NewReader(answer), &sent, "token.create", TokenCreate{Kind: "node"}, &token)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", answer, err)
		}
		if want == "no" && cluster.Hint(err) != "try" {
			t.Errorf("the hint is %q", cluster.Hint(err))
		}
		if !sent.closed || !strings.Contains(sent.String(), `"token.create"`) {
			t.Errorf("sent %q, closed: %v", &sent, sent.closed)
		}
	}
}

type closer struct {
	bytes.Buffer
	closed bool
}

func (c *closer) Close() error { c.closed = true; return nil }

var _ io.WriteCloser = (*closer)(nil)
