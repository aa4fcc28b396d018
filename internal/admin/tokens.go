package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
)

// UserTokenCreate asks for an access token by which a user signs in over HTTPS.
type UserTokenCreate struct {
	User     cluster.UserName `json:"user"`
	Label    string           `json:"label,omitempty"`
	Valid    time.Duration    `json:"valid"`
	ReadOnly bool             `json:"read_only,omitempty"`
}

// NewUserToken is a token as its user is given it, once.
type NewUserToken struct {
	Token   string    `json:"token"`
	ID      string    `json:"id"`
	Expires time.Time `json:"expires"`
}

// UserTokenRevoke makes a token worth nothing.
type UserTokenRevoke struct {
	User cluster.UserName `json:"user"`
	ID   string           `json:"id"`
}

// Bounds of tokens. All of a user's are in one record, which every node holds in
// memory.
const (
	maxTokens      = 50
	maxTokenLabel  = 100
	maxTokenMonths = 12
)

// mustOwn lets users manage their own tokens, and administrators everybody's. A
// device that acts as a user may not: a token counts from everywhere and outlives
// what the device was trusted with. Nor does a token that is for reading.
func (s *Server) mustOwn(ctx context.Context, id cluster.Identity, user cluster.UserName) error {
	if id.User != "" && id == (cluster.Identity{User: user}) {
		return nil
	}
	if err := s.mustAdmin(ctx, id); err != nil || id.Device == "" {
		return err
	}
	return fmt.Errorf("%s may not manage tokens: %w", id, cluster.ErrDenied)
}

func (s *Server) userTokenCreate(ctx context.Context, id cluster.Identity, p UserTokenCreate) (any, error) {
	if err := s.mustOwn(ctx, id, p.User); err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	switch {
	case p.Valid <= 0 || now.Add(p.Valid).After(now.AddDate(0, maxTokenMonths, 1)):
		return nil, fmt.Errorf("a token is valid for at most %d months, not %v", maxTokenMonths, p.Valid)
	case len(p.Label) > maxTokenLabel || !utf8.ValidString(p.Label) || !allPrint(p.Label):
		return nil, fmt.Errorf("a label has at most %d bytes, all of them printable", maxTokenLabel)
	}
	text, kept := access.NewUserToken()
	kept.Label, kept.ReadOnly, kept.Created, kept.Expires = p.Label, p.ReadOnly, now, now.Add(p.Valid)
	err := s.Journal.ChangeUser(ctx, p.User, func(u *cluster.User) error {
		u.Tokens = slices.DeleteFunc(u.Tokens, func(t cluster.UserToken) bool { return !now.Before(t.Expires) })
		if len(u.Tokens) >= maxTokens {
			return cluster.WithHint(fmt.Errorf("user %q has %d tokens, which is the most there may be", p.User, len(u.Tokens)), "revoke one: git cluster user token revoke")
		}
		u.Tokens = append(u.Tokens, kept)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return NewUserToken{Token: text, ID: kept.ID, Expires: kept.Expires}, nil
}

func (s *Server) userTokenList(ctx context.Context, id cluster.Identity, p UserName) (any, error) {
	if err := s.mustOwn(ctx, id, p.User); err != nil {
		return nil, err
	}
	rules, err := s.Rules.Refresh(ctx)
	if err != nil {
		return nil, err
	}
	u, ok := rules.User(p.User)
	if !ok {
		return nil, fmt.Errorf("user %q: %w", p.User, cluster.ErrNotFound)
	}
	return withoutHashes(u.Tokens), nil
}

func (s *Server) userTokenRevoke(ctx context.Context, id cluster.Identity, p UserTokenRevoke) error {
	if err := s.mustOwn(ctx, id, p.User); err != nil {
		return err
	}
	if p.ID == "" {
		return errors.New("which token? `git cluster user token list` shows their ids")
	}
	return s.Journal.ChangeUser(ctx, p.User, func(u *cluster.User) error {
		before := len(u.Tokens)
		u.Tokens = slices.DeleteFunc(u.Tokens, func(t cluster.UserToken) bool { return t.ID == p.ID })
		if len(u.Tokens) == before {
			return fmt.Errorf("user %q has no token %q: %w", p.User, p.ID, cluster.ErrNotFound)
		}
		return nil
	})
}

// userList is the users without what only nodes need of them.
func (s *Server) userList(ctx context.Context) (any, error) {
	d, err := s.Journal.Directory(ctx)
	for i := range d.Users {
		d.Users[i].Tokens = withoutHashes(d.Users[i].Tokens)
	}
	return d.Users, err
}

func withoutHashes(tokens []cluster.UserToken) []cluster.UserToken {
	all := []cluster.UserToken{}
	for _, t := range tokens {
		t.Hash = nil
		all = append(all, t)
	}
	return all
}

func allPrint(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
