package cluster

import "fmt"

// An Identity is who a request comes from: a user, a device, or nobody. It is
// what a front has authenticated, not what the request claims.
type Identity struct {
	User   UserName   // set for a user
	Device DeviceName // set for a device; with User, a device acting as that user
	// ReadOnly is set where the identity was shown by a token that is for reading
	// alone.
	ReadOnly bool
	// Operator is set for a request that came over the node's own Unix socket
	// from the account the node runs as: it may do anything the node can.
	Operator bool
}

// String is the form shown to people and kept in the journal: "alice",
// "device/repo001", or "operator".
func (id Identity) String() string {
	switch {
	case id.User != "" && id.Device != "":
		return fmt.Sprintf("%s (device/%s)", id.User, id.Device)
	case id.User != "":
		return string(id.User)
	case id.Device != "":
		return "device/" + string(id.Device)
	case id.Operator:
		return "operator"
	}
	return "anonymous"
}

// A Role is what a grant allows on a repository. Each includes those before it.
type Role int

// The roles, weakest first. RoleAdmin also allows creating a repository of a
// name the grant covers.
const (
	RoleNone Role = iota
	RoleRead
	RoleWrite
	RoleAdmin
)

var roleNames = [...]string{"none", "read", "write", "admin"}

func (r Role) String() string { return roleNames[r] }

// ParseRole reads "read", "write" or "admin".
func ParseRole(s string) (Role, error) {
	for r, name := range roleNames {
		if s == name && Role(r) != RoleNone {
			return Role(r), nil
		}
	}
	return RoleNone, fmt.Errorf("unknown role %q: use read, write or admin", clip(s))
}

// MarshalText gives the role's name.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a role's name.
func (r *Role) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRole(string(text))
	return err
}

// Freshness is how current a read must be.
type Freshness int

const (
	// Current waits until the replica shows everything acknowledged before the
	// read began.
	Current Freshness = iota
	// StaleOK answers from the replica as it is, and says so.
	StaleOK
)
