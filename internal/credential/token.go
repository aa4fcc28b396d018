package credential

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
)

// Scheme is the authentication scheme of an HTTP Authorization header that
// carries a token. As a password, a token comes with the user name
// UserPrefix plus the device's.
const (
	Scheme     = "ClusterDevice"
	UserPrefix = "device/"
)

// Lifetime is how long a token is good, for any number of requests: Git repeats
// one credential for every request of a fetch. Skew is how far ahead of the
// server's the device's clock may be.
const (
	Lifetime = 5 * time.Minute
	Skew     = time.Minute
)

// maxToken is several times the length of a token.
const maxToken = 4096

// ErrToken: the text is not a token that is good here and now. What the wrapping
// error adds is for the log of the server: to whoever showed the token it would
// say which part of a forgery to improve.
var ErrToken = errors.New("bad device token")

// Claims are what a token says.
type Claims struct {
	Device   cluster.DeviceName `json:"device"`
	Cluster  string             `json:"cluster"`  // the cluster's id
	Audience string             `json:"audience"` // as the function Audience gives it
	Key      string             `json:"key"`      // fingerprint of the key that signs
	Issued   int64              `json:"issued"`   // Unix seconds
	Expires  int64              `json:"expires"`
	ID       string             `json:"id"` // random, names the token in logs
}

// Issue signs a token with which the device shows itself to the host named
// audience. The token is one line of letters, digits, "-", "_" and one ".".
func Issue(ctx context.Context, id *Identity, audience string, now time.Time) (token string, expires time.Time, err error) {
	host, err := Audience(audience)
	if err != nil {
		return "", time.Time{}, err
	}
	var random [16]byte
	rand.Read(random[:]) // never fails
	expires = now.Add(Lifetime).Truncate(time.Second)
	payload, err := json.Marshal(Claims{
		Device: id.Name, Cluster: id.ClusterID, Audience: host, Key: id.Fingerprint(),
		Issued: now.Unix(), Expires: expires.Unix(), ID: hex.EncodeToString(random[:]),
	})
	if err != nil {
		return "", time.Time{}, err
	}
	sig, err := id.sign(ctx, signedText(namespace, hashName, payload))
	if err != nil {
		return "", time.Time{}, err
	}
	blob := envelope{
		Version: sshsigVersion, PublicKey: id.public.Marshal(), Namespace: namespace,
		HashAlgorithm: hashName, Signature: ssh.Marshal(sig),
	}.marshal()
	return wire.EncodeToString(payload) + "." + wire.EncodeToString(blob), expires, nil
}

// Verify checks a token that somebody showed to the server of that name, and
// returns what it says. lookup returns the authorized_keys line of a device
// whose tokens count at all.
//
// audience must be a name the server knows to be its own. It must not be the
// Host header of the request that carries the token: another server that was
// shown a token could pass it on with its own name in that header.
func Verify(token, audience, clusterID string, now time.Time, lookup func(cluster.DeviceName) (publicKey string, ok bool)) (Claims, error) {
	c, err := verify(token, audience, clusterID, now, lookup)
	if err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return c, nil
}

func verify(token, audience, clusterID string, now time.Time, lookup func(cluster.DeviceName) (string, bool)) (Claims, error) {
	payload, blob, err := split(token)
	if err != nil {
		return Claims{}, err
	}
	c, err := parseClaims(payload)
	if err != nil {
		return Claims{}, err
	}
	host, err := Audience(audience)
	if err != nil {
		return Claims{}, err
	}
	// A token stolen by one server, or by a test cluster that has the same
	// devices, must be of no use on another.
	switch {
	case c.Audience != host:
		return Claims{}, fmt.Errorf("it is for the host %q and not for %q", c.Audience, host)
	case c.Cluster != clusterID:
		return Claims{}, fmt.Errorf("it is for the cluster %q", c.Cluster)
	}
	// Whoever steals one may use it for minutes, not for good. A device cannot
	// make one that lasts longer, or one for later, either.
	at, skew := now.Unix(), int64(Skew/time.Second)
	switch {
	case c.Issued > at+skew:
		return Claims{}, fmt.Errorf("it is issued %d seconds in the future", c.Issued-at)
	case c.Expires <= at:
		return Claims{}, errors.New("it has expired")
	case c.Expires > c.Issued+int64(Lifetime/time.Second)+skew:
		return Claims{}, fmt.Errorf("it lasts longer than %v", Lifetime)
	}
	line, ok := lookup(c.Device)
	if !ok {
		return Claims{}, fmt.Errorf("there is no such device as %q", c.Device)
	}
	public, err := parsePublic(line)
	if err != nil {
		return Claims{}, fmt.Errorf("the key on record for device %q: %w", c.Device, err)
	}
	if !same(c.Key, ssh.FingerprintSHA256(public)) {
		return Claims{}, fmt.Errorf("it names another key than the one on record for device %q", c.Device)
	}
	if err := checkSignature(payload, blob, public); err != nil {
		return Claims{}, err
	}
	return c, nil
}

// Armor returns the two files that `ssh-keygen -Y verify` checks: the message,
// and the signature in OpenSSH's armor. It verifies nothing itself.
func Armor(token string) (message, signature []byte, err error) {
	payload, blob, err := split(token)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return payload, armor(blob), nil
}

// wire is the one encoding of bytes in tokens. Strict: the unused bits of a last
// letter are 0, so a token has no second spelling.
var wire = base64.RawURLEncoding.Strict()

func split(token string) (payload, blob []byte, err error) {
	if len(token) > maxToken {
		return nil, nil, fmt.Errorf("it has %d bytes", len(token))
	}
	first, second, ok := strings.Cut(token, ".")
	if !ok || strings.ContainsAny(token, "\r\n") { // which the decoder would skip
		return nil, nil, errors.New("it has not the form of a token")
	}
	if payload, err = wire.DecodeString(first); err == nil {
		blob, err = wire.DecodeString(second)
	}
	if err != nil {
		return nil, nil, errors.New("it has not the form of a token")
	}
	return payload, blob, nil
}

// parseClaims accepts exactly what Issue makes: what is not spelled as it would
// spell it (unknown or repeated fields, other cases of letters, spaces, more
// after the end) is refused, so that no other reader can see other claims in it.
func parseClaims(payload []byte) (Claims, error) {
	var c Claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return Claims{}, errors.New("its claims are not JSON of the right form")
	}
	if again, err := json.Marshal(c); err != nil || string(again) != string(payload) {
		return Claims{}, errors.New("its claims have fields too many, too few or in another form")
	}
	if _, err := cluster.ParseDeviceName(string(c.Device)); err != nil {
		return Claims{}, err
	}
	if host, err := Audience(c.Audience); err != nil || host != c.Audience {
		return Claims{}, fmt.Errorf("bad host %q", clip(c.Audience))
	}
	if !isClusterID(c.Cluster) {
		return Claims{}, fmt.Errorf("bad cluster id %q", clip(c.Cluster))
	}
	if id, err := hex.DecodeString(c.ID); err != nil || len(id) != 16 {
		return Claims{}, fmt.Errorf("bad id %q", clip(c.ID))
	}
	return c, nil
}

// same compares without telling by the time it takes how far the two agree.
func same[T string | []byte](a, b T) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
