package access

import (
	"fmt"
	"net/netip"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
)

// Authenticate says who the holder of a key is. The caller has proof that the
// client holds it, and where the client connects from.
//
// The error wraps [cluster.ErrDenied]; its text is for the log only. A client
// that could tell "unknown key" from "wrong network" would learn which stolen
// keys are worth carrying to another network.
func (d *Directory) Authenticate(key ssh.PublicKey, remote netip.Addr) (cluster.Identity, error) {
	if key == nil {
		return cluster.Identity{}, refuse("no key")
	}
	users, devices := d.ByKey(key)
	switch {
	case len(users)+len(devices) == 0:
		return cluster.Identity{}, refuse("nobody has the key %s", ssh.FingerprintSHA256(key))
	case len(users)+len(devices) > 1:
		return cluster.Identity{}, refuse("the key %s belongs to several: users %q, devices %q",
			ssh.FingerprintSHA256(key), users, devices)
	}
	var id cluster.Identity
	if len(users) == 1 {
		id.User = users[0]
	} else {
		id.Device = devices[0]
	}
	if err := d.Admit(id, remote); err != nil {
		return cluster.Identity{}, err
	}
	return id, nil
}

// Admit checks that an identity which something else has authenticated (sshd,
// a device token) may come in from that address: the user is known, the device
// is known, trusted, enabled and within the trusted networks. An operator may
// always. Errors are as those of [Directory.Authenticate].
func (d *Directory) Admit(id cluster.Identity, remote netip.Addr) error {
	if isOperator(id) {
		return nil
	}
	if id.User == "" && id.Device == "" {
		return refuse("neither a user nor a device")
	}
	if id.User != "" {
		if _, ok := d.User(id.User); !ok {
			return refuse("there is no user %q", id.User)
		}
	}
	if id.Device == "" {
		return nil
	}
	if err := d.usable(id.Device); err != nil {
		return err
	}
	if !d.FromTrusted(remote) {
		return refuse("device %q connects from %s, which is in no trusted network", id.Device, remote)
	}
	return nil
}

// ActAs gives a device the identity of the user it acts for. Of the devices that
// are no nodes, only those may that an administrator has allowed it: the key of a
// machine that only fetches must not be worth that of every user. Users and
// operators may not act for others: a user's key must never be worth more than
// that user, and an operator names the user it wants at the socket.
func (d *Directory) ActAs(id cluster.Identity, user cluster.UserName) (cluster.Identity, error) {
	if id.Device == "" || id.User != "" || id.Operator {
		return cluster.Identity{}, refuse("%s may not act as another user", id)
	}
	if err := d.usable(id.Device); err != nil {
		return cluster.Identity{}, err
	}
	if v, _ := d.Device(id.Device); !v.Node && !v.ActsAs {
		return cluster.Identity{}, refuse("device %q may not act for users", id.Device)
	}
	if _, ok := d.User(user); !ok {
		return cluster.Identity{}, refuse("%s acts as %q, who is not a user", id, user)
	}
	return cluster.Identity{User: user, Device: id.Device}, nil
}

// usable says why a device's identity does not count, or nil.
func (d *Directory) usable(name cluster.DeviceName) error {
	v, ok := d.Device(name)
	switch {
	case !ok:
		return refuse("there is no device %q", name)
	case !v.Trusted:
		return refuse("device %q is not trusted", name)
	case !v.Enabled:
		return refuse("device %q is disabled", name)
	}
	return nil
}

func refuse(format string, a ...any) error {
	return fmt.Errorf("%w: %s", cluster.ErrDenied, fmt.Sprintf(format, a...))
}
