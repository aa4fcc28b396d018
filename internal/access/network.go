package access

import (
	"fmt"
	"net/netip"
)

// DefaultTrusted returns the networks device keys count from unless an operator
// says otherwise: loopback, the private IPv4 networks (RFC 1918), and the
// unique local and link-local IPv6 addresses.
func DefaultTrusted() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("::1/128"),
		netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("fc00::/7"),
		netip.MustParsePrefix("fe80::/10"),
	}
}

// FromTrusted reports whether a device may connect from the address. The zero
// address, which stands for "unknown", is in no network.
func (d *Directory) FromTrusted(remote netip.Addr) bool {
	// A socket that listens on both families shows IPv4 clients as
	// ::ffff:a.b.c.d, and a zone is part of no prefix.
	remote = remote.Unmap().WithZone("")
	if d == nil || !remote.IsValid() {
		return false
	}
	for _, p := range d.trusted {
		if p.Contains(remote) {
			return true
		}
	}
	return false
}

// plainPrefix rewrites a prefix of IPv4-mapped addresses as one of IPv4, which
// is what addresses are compared as.
func plainPrefix(p netip.Prefix) (netip.Prefix, error) {
	if !p.IsValid() {
		return netip.Prefix{}, fmt.Errorf("%s is not a network", p)
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// Source is the network that one stranger is taken to control, for counting
// strangers: the address, or an IPv6 /64. What is no IP address counts as one.
func Source(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
