package access

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
)

// A Directory is an immutable snapshot of who is known and what they were
// granted. It is safe for concurrent use. The nil Directory knows nobody.
type Directory struct {
	devices  map[cluster.DeviceName]cluster.Device
	users    map[cluster.UserName]cluster.User
	holders  map[string]*holder // by the key's wire form
	tokens   map[string]*issued // by the token's id
	grants   map[string][]cluster.Grant
	trusted  []netip.Prefix
	problems []error
}

// A holder is whoever lists one key. Only a key of exactly one counts.
type holder struct {
	users   []cluster.UserName
	devices []cluster.DeviceName
}

// NewDirectory makes a snapshot. Device keys count only from the trusted
// networks; nil stands for [DefaultTrusted], an empty slice for none. Records
// that cannot be read are left out and listed by [Directory.Problems].
func NewDirectory(devices []cluster.Device, users []cluster.User, grants []cluster.Grant, trusted []netip.Prefix) *Directory {
	d := &Directory{
		devices: make(map[cluster.DeviceName]cluster.Device, len(devices)),
		users:   make(map[cluster.UserName]cluster.User, len(users)),
		holders: make(map[string]*holder),
		tokens:  make(map[string]*issued),
		grants:  make(map[string][]cluster.Grant),
	}
	for _, v := range devices {
		d.addDevice(v)
	}
	for _, u := range users {
		d.addUser(u)
	}
	for _, g := range grants {
		d.addGrant(g)
	}
	if trusted == nil {
		trusted = DefaultTrusted()
	}
	for _, p := range trusted {
		plain, err := plainPrefix(p)
		if err != nil {
			d.problem("trusted network: %w", err)
			continue
		}
		d.trusted = append(d.trusted, plain)
	}
	return d
}

// Problems lists the records that were left out, for the log.
func (d *Directory) Problems() []error {
	if d == nil {
		return nil
	}
	return slices.Clone(d.problems)
}

// ByKey returns everybody who lists the key. Whether it lets them in is for
// [Directory.Authenticate] to say.
func (d *Directory) ByKey(key ssh.PublicKey) ([]cluster.UserName, []cluster.DeviceName) {
	if d == nil || key == nil {
		return nil, nil
	}
	h := d.holders[string(key.Marshal())]
	if h == nil {
		return nil, nil
	}
	return slices.Clone(h.users), slices.Clone(h.devices)
}

// Device returns the device of that name.
func (d *Directory) Device(name cluster.DeviceName) (cluster.Device, bool) {
	if d == nil {
		return cluster.Device{}, false
	}
	v, ok := d.devices[name]
	return v, ok
}

// User returns the user of that name.
func (d *Directory) User(name cluster.UserName) (cluster.User, bool) {
	if d == nil {
		return cluster.User{}, false
	}
	u, ok := d.users[name]
	u.Keys, u.Tokens = slices.Clone(u.Keys), slices.Clone(u.Tokens)
	return u, ok
}

// Nodes returns the devices that are nodes, by name, disabled ones too.
func (d *Directory) Nodes() []cluster.Device {
	if d == nil {
		return nil
	}
	var nodes []cluster.Device
	for _, v := range d.devices {
		if v.Node {
			nodes = append(nodes, v)
		}
	}
	slices.SortFunc(nodes, func(a, b cluster.Device) int {
		return cmp.Compare(a.Name, b.Name)
	})
	return nodes
}

func (d *Directory) addDevice(v cluster.Device) {
	if _, err := cluster.ParseDeviceName(string(v.Name)); err != nil {
		d.problem("device: %w", err)
		return
	}
	if _, ok := d.devices[v.Name]; ok {
		d.problem("device %q: a second record of that name", v.Name)
		return
	}
	d.devices[v.Name] = v
	key, err := parseKey(v.PublicKey)
	if err != nil {
		d.problem("device %q: %w", v.Name, err)
		return
	}
	h := d.holder(key)
	h.devices = append(h.devices, v.Name)
}

func (d *Directory) addUser(u cluster.User) {
	if _, err := cluster.ParseUserName(string(u.Name)); err != nil {
		d.problem("user: %w", err)
		return
	}
	if _, ok := d.users[u.Name]; ok {
		d.problem("user %q: a second record of that name", u.Name)
		return
	}
	u.Keys, u.Tokens = slices.Clone(u.Keys), slices.Clone(u.Tokens)
	d.users[u.Name] = u
	for i, line := range u.Keys {
		key, err := parseKey(line)
		if err != nil {
			d.problem("user %q: key %d: %w", u.Name, i+1, err)
			continue
		}
		if h := d.holder(key); !slices.Contains(h.users, u.Name) {
			h.users = append(h.users, u.Name)
		}
	}
	d.addTokens(u)
}

func (d *Directory) addGrant(g cluster.Grant) {
	// A pattern that a person could not have written, such as "team*", would
	// cover more than it seems to.
	if p, err := cluster.ParseRepoPattern(string(g.Pattern)); err != nil || p != g.Pattern {
		d.problem("grant to %q: bad pattern %q", g.Subject, g.Pattern)
		return
	}
	if g.Role < cluster.RoleRead || g.Role > cluster.RoleAdmin {
		d.problem("grant to %q on %q: role number %d", g.Subject, g.Pattern, int(g.Role))
		return
	}
	d.grants[g.Subject] = append(d.grants[g.Subject], g)
}

func (d *Directory) holder(key ssh.PublicKey) *holder {
	wire := string(key.Marshal())
	if d.holders[wire] == nil {
		d.holders[wire] = new(holder)
	}
	return d.holders[wire]
}

func (d *Directory) problem(format string, a ...any) {
	d.problems = append(d.problems, fmt.Errorf(format, a...))
}
