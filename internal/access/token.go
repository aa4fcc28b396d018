package access

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"gitcluster/internal/cluster"
)

// UserTokenPrefix is how every access token of a user begins, so that a program
// which looks for lost secrets can find one.
const UserTokenPrefix = "gcu-"

// ErrUnknownToken: nobody has a token of that id. It may have been made a moment
// ago, after the snapshot.
var ErrUnknownToken = fmt.Errorf("%w: nobody has the token", cluster.ErrDenied)

// secretBytes is the length of a token's secret.
const secretBytes = 32

// wire is strict: the unused bits of the last letter are 0, so that a token has
// no second spelling.
var wire = base64.RawURLEncoding.Strict()

// NewUserToken draws a token, "gcu-<16 hex digits>-<43 letters>", and returns it
// with what is to be kept of it.
//
// The secret is 256 random bits, so a plain hash keeps it: a slow one, which
// guards what people make up, would only slow down every request.
func NewUserToken() (text string, kept cluster.UserToken) {
	var id [8]byte
	var secret [secretBytes]byte
	rand.Read(id[:]) // never fails (crypto/rand)
	rand.Read(secret[:])
	hash := sha256.Sum256(secret[:])
	kept = cluster.UserToken{ID: hex.EncodeToString(id[:]), Hash: hash[:]}
	return UserTokenPrefix + kept.ID + "-" + wire.EncodeToString(secret[:]), kept
}

// ByToken says who the holder of a user's token is. Errors are as those of
// [Directory.Authenticate]; they never show the secret.
func (d *Directory) ByToken(text string, now time.Time) (cluster.Identity, error) {
	id, secret, err := parseUserToken(text)
	if err != nil {
		return cluster.Identity{}, refuse("%v", err)
	}
	if d == nil {
		return cluster.Identity{}, ErrUnknownToken
	}
	t := d.tokens[id]
	hash := sha256.Sum256(secret)
	switch {
	case t == nil:
		return cluster.Identity{}, fmt.Errorf("%w %s", ErrUnknownToken, id)
	case t.twice:
		return cluster.Identity{}, refuse("the token %s belongs to several", id)
	case subtle.ConstantTimeCompare(hash[:], t.token.Hash) != 1:
		return cluster.Identity{}, refuse("the secret of the token %s of %q is wrong", id, t.user)
	case !now.Before(t.token.Expires):
		return cluster.Identity{}, refuse("the token %s of %q expired on %s", id, t.user, t.token.Expires.Format(time.DateOnly))
	}
	return cluster.Identity{User: t.user, ReadOnly: t.token.ReadOnly}, nil
}

// An issued token is one with its owner. Only one that nobody else has counts.
type issued struct {
	user  cluster.UserName
	token cluster.UserToken
	twice bool
}

func (d *Directory) addTokens(u cluster.User) {
	for _, t := range u.Tokens {
		switch {
		case !isTokenID(t.ID) || len(t.Hash) != sha256.Size:
			d.problem("user %q: a token record that cannot be read", u.Name)
		case d.tokens[t.ID] != nil:
			d.tokens[t.ID].twice = true
			d.problem("user %q: the token %s is there twice", u.Name, t.ID)
		default:
			d.tokens[t.ID] = &issued{user: u.Name, token: t}
		}
	}
}

func parseUserToken(text string) (id string, secret []byte, err error) {
	rest, ok := strings.CutPrefix(text, UserTokenPrefix)
	id, encoded, ok2 := strings.Cut(rest, "-")
	if ok && ok2 && isTokenID(id) && len(encoded) == wire.EncodedLen(secretBytes) && !strings.ContainsAny(encoded, "\r\n") {
		if secret, err = wire.DecodeString(encoded); err == nil {
			return id, secret, nil
		}
	}
	return "", nil, errors.New("that has not the form of an access token")
}

func isTokenID(s string) bool {
	return len(s) == 16 && strings.Trim(s, "0123456789abcdef") == ""
}
