package credential

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Audience returns the name under which a token is for a server: its host in
// lower case, without a port, brackets or a final dot; an IP address in its
// shortest form.
//
// The port is not part of it: a node cannot know by which port a proxy or a
// forwarding rule showed it to the client. Two servers on one host can therefore
// use each other's tokens. They must trust each other for that, or have
// different names.
func Audience(host string) (string, error) {
	bad := fmt.Errorf("bad host %q", clip(host))
	name := host
	switch {
	case strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]"):
		name = host[1 : len(host)-1]
	case strings.HasPrefix(host, "["), strings.Count(host, ":") == 1:
		h, port, err := net.SplitHostPort(host)
		if err != nil {
			return "", bad
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return "", bad
		}
		name = h
	}
	ip, err := netip.ParseAddr(name)
	if err == nil {
		// A zone names an interface of the machine that asks; the server knows
		// nothing of it.
		return ip.WithZone("").Unmap().String(), nil
	}
	if strings.HasPrefix(host, "[") {
		return "", bad // brackets are for addresses
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if len(name) > 253 {
		return "", bad
	}
	for label := range strings.SplitSeq(name, ".") {
		// Only what a resolver looks up: no text that another program could
		// read as an option, a path or a second line.
		if label == "" || label[0] == '-' || strings.ContainsFunc(label, func(r rune) bool {
			return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_')
		}) {
			return "", bad
		}
	}
	return name, nil
}
