package address

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// String gives "host", "host:port" or "[address]:port".
func (h Host) String() string {
	name := h.Name
	if strings.Contains(name, ":") {
		name = "[" + strings.ReplaceAll(name, "%", "%25") + "]"
	}
	if h.Port == 0 {
		return name
	}
	return name + ":" + strconv.Itoa(int(h.Port))
}

// Dial gives the "host:port" to connect to, with SSH's port where none is named.
func (h Host) Dial() string {
	port := h.Port
	if port == 0 {
		port = 22
	}
	return net.JoinHostPort(h.Name, strconv.Itoa(int(port)))
}

// parseURL reads what follows "cluster://": "[user@]host[:port][,host[:port]…]/path".
func parseURL(text string) (a Address, err error) {
	slash := strings.IndexByte(text, '/')
	if slash < 0 {
		return a, errors.New("it has no repository after the host")
	}
	authority, path := text[:slash], text[slash:]
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, err := url.PathUnescape(authority[:i])
		if err != nil {
			return a, errors.New("the user has a bad percent escape")
		}
		if a.User, err = parseUser(user); err != nil {
			return a, err
		}
		authority = authority[i+1:]
	}
	for part := range strings.SplitSeq(authority, ",") {
		host, err := ParseHost(part)
		if err != nil {
			return a, err
		}
		if a.Hosts = append(a.Hosts, host); len(a.Hosts) > maxHosts {
			return a, fmt.Errorf("it names more than %d hosts", maxHosts)
		}
	}
	a.Path, err = parsePath(path)
	return a, err
}

// parsePath turns a URL's path into what the server is asked for, as Git does
// for ssh:// URLs.
func parsePath(path string) (string, error) {
	path, err := url.PathUnescape(path)
	if err != nil {
		return "", errors.New("the path has a bad percent escape")
	}
	// Again, for what the escapes stood for.
	if err := checkText(path); err != nil {
		return "", err
	}
	if strings.HasPrefix(path, "/~") {
		path = path[1:]
	}
	if strings.Trim(path, "/") == "" {
		return "", errors.New("it has no repository after the host")
	}
	return path, nil
}

// ParseHost reads "host", "host:port", or an IPv6 address in brackets with or
// without a port.
func ParseHost(s string) (h Host, err error) {
	name, port, hasPort := s, "", false
	if rest, ok := strings.CutPrefix(s, "["); ok {
		inner, after, ok := strings.Cut(rest, "]")
		if !ok {
			return h, fmt.Errorf("the host %q lacks its closing bracket", clip(s))
		}
		inner = strings.Replace(inner, "%25", "%", 1)
		ip, err := netip.ParseAddr(inner)
		if err != nil || !ip.Is6() || !plainZone(ip.Zone()) {
			return h, fmt.Errorf("%q is not an IPv6 address", clip(inner))
		}
		name = ip.String()
		if after != "" {
			if port, hasPort = strings.CutPrefix(after, ":"); !hasPort {
				return h, fmt.Errorf("the host %q has text after its bracket", clip(s))
			}
		}
	} else {
		name, port, hasPort = strings.Cut(s, ":")
		if strings.Contains(port, ":") {
			return h, errors.New("a host has two colons: an IPv6 address is written [address]:port")
		}
		if err := checkHost(name); err != nil {
			return h, err
		}
	}
	h.Name = name
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			// Not the port itself: in "user:pass/word@host" it is half a password.
			return h, fmt.Errorf("the host %q has a bad port: use 1 to 65535", clip(name))
		}
		h.Port = uint16(n)
	}
	return h, nil
}

// checkHost allows DNS names and IPv4 addresses. A first "-" is refused since
// ssh(1), to which an address may be given some day or by somebody's script,
// would take such a host for an option that runs a command.
func checkHost(name string) error {
	switch {
	case name == "":
		return errors.New("a host is empty")
	case len(name) > maxHost:
		return fmt.Errorf("a host is longer than %d bytes", maxHost)
	case name[0] == '-':
		return fmt.Errorf("the host %q begins with \"-\"", clip(name))
	}
	for _, c := range []byte(name) {
		if !isAlnum(c) && strings.IndexByte("._-", c) < 0 {
			return fmt.Errorf("the host %q has the character %q", clip(name), c)
		}
	}
	return nil
}

func plainZone(zone string) bool {
	return zone == "" || checkHost(zone) == nil
}

// parseUser checks an SSH user. Other systems have odd account names, so only
// what could be mistaken for something else is refused.
func parseUser(user string) (string, error) {
	switch {
	case user == "":
		return "", errors.New("the user before \"@\" is empty")
	case len(user) > maxUser:
		return "", fmt.Errorf("the user is longer than %d bytes", maxUser)
	case user[0] == '-':
		return "", errors.New("the user begins with \"-\"")
	case strings.Contains(user, ":"):
		return "", errors.New("it holds a password, which is never used: use an SSH key")
	case strings.ContainsAny(user, "/@ "):
		return "", errors.New("the user has a slash, a space or an \"@\"")
	}
	return user, checkText(user)
}

// escape writes what would end or change a part of a URL as percent escapes.
func escape(s string) string {
	return strings.NewReplacer("%", "%25", "@", "%40", ":", "%3A").Replace(s)
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:77] + "…"
	}
	return s
}
