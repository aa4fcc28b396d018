package admin

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
)

func TestUserTokens(t *testing.T) {
	w := newWorld(t)
	w.Rules.(*rules).old = access.NewDirectory([]cluster.Device{{Name: "node1", PublicKey: newKey(t), Enabled: true, Trusted: true}},
		[]cluster.User{{Name: "alice"}, {Name: "bob"}, {Name: "root", Admin: true}}, nil, nil)
	day := 24 * time.Hour
	var token NewUserToken
	w.must(alice, "user.token.create", UserTokenCreate{User: "alice", Label: "laptop", Valid: 90 * day, ReadOnly: true}, &token)
	d, err := w.Rules.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if id, err := d.ByToken(token.Token, time.Now()); err != nil || id != (cluster.Identity{User: "alice", ReadOnly: true}) {
		t.Errorf("the token is worth %v, %v", id, err)
	}
	if secret := token.Token[strings.LastIndex(token.Token[:30], "-")+1:]; strings.Contains(w.state(), secret) {
		t.Error("the journal holds the secret")
	}

	// Neither who may list tokens nor who may list users is shown the hashes.
	for method, params := range map[string]any{"user.token.list": UserName{"alice"}, "user.list": struct{}{}} {
		var raw json.RawMessage
		w.must(root, method, params, &raw)
		if !bytes.Contains(raw, []byte(`"laptop"`)) || bytes.Contains(raw, []byte(`"hash"`)) {
			t.Errorf("%s: %s", method, raw)
		}
	}

	machine := cluster.Identity{Device: "node1"}
	for name, who := range map[string]cluster.Identity{
		"another user": bob, "nobody": nobody, "a device": machine,
		"a device as that user":           {User: "alice", Device: "node1"},
		"a device as an administrator":    {User: "root", Device: "node1"},
		"a token for reading":             {User: "alice", ReadOnly: true},
		"an administrator's, for reading": {User: "root", ReadOnly: true},
	} {
		before := w.state()
		for _, q := range []struct {
			method string
			params any
		}{
			{"user.token.create", UserTokenCreate{User: "alice", Valid: day}},
			{"user.token.list", UserName{"alice"}},
			{"user.token.revoke", UserTokenRevoke{"alice", token.ID}},
		} {
			if err := w.ask(who, q.method, q.params, nil); err == nil || !strings.Contains(err.Error(), "permission denied") {
				t.Errorf("%s, %s: %v", name, q.method, err)
			}
		}
		if w.state() != before {
			t.Errorf("%s changed something", name)
		}
	}
	for _, p := range []UserTokenCreate{{User: "alice"}, {User: "alice", Valid: -day}, {User: "alice", Valid: 400 * day},
		{User: "alice", Valid: day, Label: "a\x1b[2J"}, {User: "alice", Valid: day, Label: strings.Repeat("x", 101)}, {User: "carol", Valid: day}} {
		if err := w.ask(root, "user.token.create", p, nil); err == nil {
			t.Errorf("%+v was given", p)
		}
	}

	w.refused(alice, "user.token.revoke", UserTokenRevoke{"alice", "0123456789abcdef"}, "not found")
	w.refused(alice, "user.token.revoke", UserTokenRevoke{User: "alice"}, "which token")
	w.must(operator, "user.token.revoke", UserTokenRevoke{"alice", token.ID}, nil)
	if d, err = w.Rules.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if id, err := d.ByToken(token.Token, time.Now()); err == nil {
		t.Errorf("a revoked token is worth %v", id)
	}

	// Expired tokens make room, and there is a bound.
	err = w.Journal.ChangeUser(t.Context(), "bob", func(u *cluster.User) error {
		for range maxTokens {
			_, kept := access.NewUserToken()
			kept.Expires = time.Now().Add(-time.Second)
			u.Tokens = append(u.Tokens, kept)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range maxTokens {
		w.must(bob, "user.token.create", UserTokenCreate{User: "bob", Valid: day}, nil)
	}
	w.refused(bob, "user.token.create", UserTokenCreate{User: "bob", Valid: day}, "the most there may be")
}
