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
	PublicKey string     `json:"public_key"` // one authorized_keys line: "ssh-ed25519 AAAA…"
	Node      bool       `json:"node"`       // it holds replicas and serves
	SSH       string     `json:"ssh,omitempty"`
	HTTP      string     `json:"http,omitempty"`
	Region    string     `json:"region,omitempty"`
	Enabled   bool       `json:"enabled"`
	Trusted   bool       `json:"trusted"`
	Writable  bool       `json:"writable"` // pushes may be sent to it
	// New is set from its joining to its first start. Until then it counts for
	// no majority of copies: a machine that was prepared but never came up must
	// not refuse pushes.
	New    bool      `json:"new,omitempty"`
	Joined time.Time `json:"joined"`
}

// A User is a person, or a robot that acts as one, as the journal keeps it.
type User struct {
	Name  UserName `json:"name"`
	Keys  []string `json:"keys"` // authorized_keys lines, without options
	Admin bool     `json:"admin,omitempty"`
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
