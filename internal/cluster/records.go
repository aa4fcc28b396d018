package cluster

import (
	"fmt"
	"path"
	"strings"
	"time"
)

// A Device is a machine identity as the journal keeps it.
type Device struct {
	Name      DeviceName `json:"name"`
	PublicKey string     `json:"public_key"`     // one authorized_keys line: "ssh-ed25519 AAAA…"
	Node      bool       `json:"node"`           // it holds replicas and serves
	SSH       string     `json:"ssh,omitempty"`  // host:port
	HTTP      string     `json:"http,omitempty"` // host:port, always with TLS
	Region    string     `json:"region,omitempty"`
	Enabled   bool       `json:"enabled"`
	Trusted   bool       `json:"trusted"`
	Writable  bool       `json:"writable"` // pushes may be sent to it
	// ActsAs lets a device that is no node act as users; nodes may.
	ActsAs bool `json:"acts_as_users,omitempty"`
	// New is set from its joining until it has, once, what the others have. Until then it
	// counts for no majority of copies and nobody is sent to it: a machine that was
	// prepared but never came up must not refuse pushes.
	New    bool      `json:"new,omitempty"`
	Joined time.Time `json:"joined"`
}

// A User is a person, or a robot that acts as one, as the journal keeps it.
type User struct {
	Name  UserName `json:"name"`
	Keys  []string `json:"keys"` // authorized_keys lines, without options
	Admin bool     `json:"admin,omitempty"`
	// Tokens are what the user signs in with over HTTPS.
	Tokens []UserToken `json:"tokens,omitempty"`
}

// A UserToken is an access token of a user without its secret, which nobody but
// the user has.
type UserToken struct {
	ID       string    `json:"id"`             // 16 hexadecimal digits, the part of the token that is no secret
	Hash     []byte    `json:"hash,omitempty"` // SHA-256 of the secret
	Label    string    `json:"label,omitempty"`
	ReadOnly bool      `json:"read_only,omitempty"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
}

// A Grant gives one subject a role on the repositories a pattern covers.
type Grant struct {
	Subject string      `json:"subject"` // a user's name, "device/NAME", or "@all" for every user
	Pattern RepoPattern `json:"pattern"`
	Role    Role        `json:"role"`
}

// EveryUser is the subject of grants that hold for all users.
const EveryUser = "@all"

// A RepoPattern covers repositories: an exact name, a folder with everything
// below it ("team/*"), or all ("*").
type RepoPattern string

// ParseRepoPattern checks a pattern as a person wrote it.
func ParseRepoPattern(s string) (RepoPattern, error) {
	if s == "*" {
		return "*", nil
	}
	folder, isFolder := strings.CutSuffix(s, "/*")
	name, err := ParseRepoName(folder)
	if err != nil {
		return "", fmt.Errorf("bad pattern %q: use a repository name, \"folder/*\" or \"*\"", clip(s))
	}
	if isFolder {
		return RepoPattern(path.Join(string(name), "*")), nil
	}
	return RepoPattern(name), nil
}

// Covers reports whether the pattern covers the repository.
func (p RepoPattern) Covers(name RepoName) bool {
	if p == "*" {
		return true
	}
	if folder, ok := strings.CutSuffix(string(p), "*"); ok {
		return strings.HasPrefix(string(name), folder)
	}
	return string(p) == string(name)
}

// RestoringName is what a repository is called until it has been restored whole. Whoever
// restores it holds the claim of its upkeep meanwhile.
func RestoringName(id RepoID) RepoName { return RepoName("restoring-" + id) }

// A Repo is a repository's settings as the journal keeps them.
type Repo struct {
	ID          RepoID       `json:"id"`
	Name        RepoName     `json:"name"`
	Format      ObjectFormat `json:"format"`
	InitialHead RefName      `json:"initial_head"` // HEAD at version 0
	Public      bool         `json:"public,omitempty"`
	DenyNonFF   bool         `json:"deny_non_fast_forwards,omitempty"`
	DenyDeletes bool         `json:"deny_deletes,omitempty"`
	// Copies is on how many nodes a push must be before it is acknowledged; 0
	// means a majority of the enabled nodes. WhenDegraded says what becomes of a
	// push that cannot be on so many.
	Copies        int          `json:"copies,omitempty"`
	WhenDegraded  WhenDegraded `json:"when_degraded,omitempty"`
	Created       time.Time    `json:"created"`
	CreatedBy     string       `json:"created_by"`
	CreatedOnNode DeviceName   `json:"created_on"`
	// Observe, if not nil, makes it a mirror: its refs follow those of a remote,
	// and nobody may push to it. What it points to is never changed.
	Observe *Observation `json:"observe,omitempty"`
}

// WhenDegraded is what becomes of a push that not enough nodes can store.
type WhenDegraded string

const (
	Refuse WhenDegraded = "refuse" // it is refused; also what "" means
	Warn   WhenDegraded = "warn"   // it is accepted with a warning
)

// ParseWhenDegraded checks a setting as a person wrote it.
func ParseWhenDegraded(s string) (WhenDegraded, error) {
	switch w := WhenDegraded(s); w {
	case Refuse, Warn:
		return w, nil
	}
	return "", fmt.Errorf("unknown choice %q: use refuse or warn", clip(s))
}

// An Observation says what a mirror follows.
type Observation struct {
	Remotes []Remote      `json:"remotes"` // tried in this order
	Refs    []RefPattern  `json:"refs"`    // those that are mirrored; others are left alone
	Every   time.Duration `json:"every"`   // nanoseconds between two pulls
}

// A Remote is one address of what a mirror follows. Its credential is kept apart,
// where only nodes read it.
type Remote struct {
	URI        string `json:"uri"`
	Credential string `json:"credential,omitempty"` // its kind: "key", "password", "device", or "" for none
}

// The kinds of credential of a Remote.
const (
	CredentialKey      = "key"
	CredentialPassword = "password"
	CredentialDevice   = "device"
)

// A RefPattern covers refs: a full name, or a folder with everything below it
// ("refs/heads/*").
type RefPattern string

// ParseRefPattern checks a pattern as a person wrote it.
func ParseRefPattern(s string) (RefPattern, error) {
	folder, isFolder := strings.CutSuffix(s, "/*")
	var err error
	switch {
	case !isFolder:
		_, err = ParseRefName(s)
	case folder != "refs":
		_, err = ParseRefName(folder + "/x")
	}
	if err != nil {
		return "", fmt.Errorf("bad pattern %q: use a full ref name, or a folder such as \"refs/heads/*\"", clip(s))
	}
	return RefPattern(s), nil
}

// Covers reports whether the pattern covers the ref. Hidden refs are covered by
// none.
func (p RefPattern) Covers(ref RefName) bool {
	if folder, ok := strings.CutSuffix(string(p), "*"); ok {
		return strings.HasPrefix(string(ref), folder) && !ref.IsHidden()
	}
	return string(p) == string(ref) && !ref.IsHidden()
}
