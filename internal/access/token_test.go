package access

import (
	"errors"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
)

func TestByToken(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	make := func(change func(*cluster.UserToken)) (string, cluster.UserToken) {
		text, kept := NewUserToken()
		kept.Expires = now.Add(time.Hour)
		if change != nil {
			change(&kept)
		}
		return text, kept
	}
	good, goodKept := make(nil)
	reader, readerKept := make(func(t *cluster.UserToken) { t.ReadOnly = true })
	old, oldKept := make(func(t *cluster.UserToken) { t.Expires = now })
	twice, twiceKept := make(nil)
	broken, brokenKept := make(func(t *cluster.UserToken) { t.Hash = t.Hash[:31] })
	unknown, _ := make(nil)
	other, _ := make(nil)
	d := NewDirectory(nil, []cluster.User{
		{Name: "alice", Admin: true, Tokens: []cluster.UserToken{goodKept, readerKept, oldKept, twiceKept}},
		{Name: "bob", Tokens: []cluster.UserToken{twiceKept, brokenKept}},
	}, nil, nil)
	if p := d.Problems(); len(p) != 2 {
		t.Errorf("problems: %v", p)
	}
	secretOf := func(text string) string { return text[len(UserTokenPrefix)+17:] }
	forged := good[:len(UserTokenPrefix)+17] + secretOf(other)
	tests := []struct{ name, text, reason string }{
		{"wrong secret", forged, "secret of the token"},
		{"expired", old, "expired on 2026-05-01"},
		{"belongs to two", twice, "belongs to several"},
		{"unreadable record", broken, "nobody has the token"},
		{"unknown", unknown, "nobody has the token"},
		{"empty", "", "form"},
		{"id alone", good[:len(UserTokenPrefix)+16], "form"},
		{"upper case id", strings.ToUpper(good[:len(UserTokenPrefix)+16]) + good[len(UserTokenPrefix)+16:], "form"},
		{"join token", "gcjoin-" + good[4:], "form"},
		{"more behind it", good + "A", "form"},
		{"line break", good + "\n", "form"},
		{"line break within", good[:30] + "\n" + good[31:], "form"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id, err := d.ByToken(tt.text, now)
			if !errors.Is(err, cluster.ErrDenied) || !strings.Contains(err.Error(), tt.reason) || id != (cluster.Identity{}) {
				t.Fatalf("identity %v, error %v; want a refusal with %q", id, err, tt.reason)
			}
			if len(tt.text) > 40 && strings.Contains(err.Error(), secretOf(tt.text)) {
				t.Errorf("the error shows the secret: %v", err)
			}
			if errors.Is(err, ErrUnknownToken) != strings.HasPrefix(tt.reason, "nobody") {
				t.Errorf("unknown or not: %v", err)
			}
		})
	}
	if id, err := d.ByToken(good, now); err != nil || id != (cluster.Identity{User: "alice"}) || !d.Admin(id) {
		t.Errorf("a good token gives %v, %v", id, err)
	}
	id, err := d.ByToken(reader, now)
	if err != nil || id != (cluster.Identity{User: "alice", ReadOnly: true}) || d.Admin(id) {
		t.Errorf("a token for reading gives %v, %v", id, err)
	}
	if role := d.Role(id, &cluster.Repo{Name: "x"}); role != cluster.RoleRead {
		t.Errorf("a token for reading gives an administrator the role %v", role)
	}
	var none *Directory
	if _, err := none.ByToken(good, now); !errors.Is(err, ErrUnknownToken) {
		t.Errorf("no directory: %v", err)
	}
}
