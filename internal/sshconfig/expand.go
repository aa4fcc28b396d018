package sshconfig

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// defaultPort is SSH's.
const defaultPort = 22

// expand fills in names, "~" and the tokens that stand for parts of the
// connection.
func (e *evaluation) expand() {
	h := e.host
	name := e.hostName()
	if e.set["hostname"] && strings.Contains(strings.NewReplacer("%%", "", "%h", "").Replace(h.Name), "%") {
		h.Beyond = append(h.Beyond, "HostName "+strconv.Quote(h.Name))
	}
	h.Name = strings.ToLower(name)
	if h.Port == 0 {
		h.Port = defaultPort
	}
	h.UserSet = h.User != "" && e.target.User == ""
	if h.User == "" {
		h.User = e.target.DefaultUser
	}
	if h.User == "" {
		h.User = e.config.LocalUser()
	}
	if h.UserSet && (strings.Contains(h.User, "%") || strings.Contains(h.User, "${")) {
		// Newer versions of ssh expand it, others log in by that very name.
		h.Beyond = append(h.Beyond, "User "+strconv.Quote(h.User))
	}
	for i := range h.Jumps {
		e.jumpUser(&h.Jumps[i])
	}
	for _, list := range []*[]string{&h.IdentityFiles, &h.CertificateFiles, &h.UserKnownHosts, &h.GlobalKnownHosts} {
		for i, path := range *list {
			(*list)[i] = e.path(path)
		}
	}
	switch agent := h.IdentityAgent; {
	case agent == "" || strings.EqualFold(agent, "none"):
		h.IdentityAgent = strings.ToLower(agent)
	case agent == "SSH_AUTH_SOCK":
		h.IdentityAgent = e.config.Getenv("SSH_AUTH_SOCK")
	case strings.HasPrefix(agent, "$") && !strings.HasPrefix(agent, "${"):
		h.IdentityAgent = e.config.Getenv(agent[1:])
	default:
		h.IdentityAgent = e.path(agent)
	}
	if e.set["identityagent"] && h.IdentityAgent == "" {
		h.IdentityAgent = "none" // a variable that is not set names no agent
	}
}

// path expands the name of a file. A token that is not known here, or a variable
// that is not set, is for ssh to judge.
func (e *evaluation) path(s string) string {
	c, h := e.config, e.host
	var b strings.Builder
	giveUp := func(what string) string {
		h.Beyond = append(h.Beyond, fmt.Sprintf("%s in %q", what, s))
		return s
	}
	rest := s
	if after, ok := strings.CutPrefix(rest, "~"); ok {
		if after != "" && after[0] != '/' && after[0] != filepath.Separator {
			return giveUp("another account's home")
		}
		b.WriteString(c.Home)
		rest = after
	}
	for i := 0; i < len(rest); i++ {
		switch {
		case rest[i] == '$' && strings.HasPrefix(rest[i:], "${"):
			name, _, ok := strings.Cut(rest[i+2:], "}")
			value := c.Getenv(name)
			if !ok || value == "" {
				return giveUp("a variable that is not set")
			}
			b.WriteString(value)
			i += len("${}") + len(name) - 1
		case rest[i] == '%' && i+1 < len(rest):
			i++
			value, ok := e.token(rest[i])
			if !ok {
				return giveUp("%" + rest[i:i+1])
			}
			b.WriteString(value)
		default:
			b.WriteByte(rest[i])
		}
	}
	path := b.String()
	if path != "" && !filepath.IsAbs(path) && !strings.HasPrefix(path, `\\.\`) {
		// As it is to ssh, it is relative to where Git was started.
		if abs, err := filepath.Abs(path); err == nil {
			return abs
		}
	}
	return path
}

// jumpUser expands the tokens that ssh has for ProxyJump.
func (e *evaluation) jumpUser(t *Target) {
	var b strings.Builder
	for i := 0; i < len(t.User); i++ {
		if t.User[i] != '%' {
			b.WriteByte(t.User[i])
			continue
		}
		if i++; i < len(t.User) && strings.IndexByte("%hnpr", t.User[i]) >= 0 {
			if value, ok := e.token(t.User[i]); ok {
				b.WriteString(value)
				continue
			}
		}
		e.host.Beyond = append(e.host.Beyond, "ProxyJump "+strconv.Quote(t.User+"@"+t.Host))
		return
	}
	t.User = b.String()
}

func (e *evaluation) token(c byte) (string, bool) {
	h := e.host
	switch c {
	case '%':
		return "%", true
	case 'd':
		return e.config.Home, true
	case 'h':
		return h.Name, true
	case 'i':
		return strconv.Itoa(os.Getuid()), true
	case 'k':
		if h.HostKeyAlias != "" {
			return h.HostKeyAlias, true
		}
		return e.target.Host, true
	case 'L', 'l':
		name, err := os.Hostname()
		if c == 'L' {
			name, _, _ = strings.Cut(name, ".")
		}
		return name, err == nil
	case 'n':
		return e.target.Host, true
	case 'p':
		return strconv.Itoa(h.Port), true
	case 'r':
		return h.User, h.User != ""
	case 'u':
		return e.config.LocalUser(), true
	}
	return "", false
}

// mayHaveTicket reports whether there are signs of Kerberos tickets.
func (c *Config) mayHaveTicket() bool {
	if c.Getenv("KRB5CCNAME") != "" {
		return true
	}
	_, err := os.Stat(fmt.Sprintf("/tmp/krb5cc_%d", os.Getuid()))
	return err == nil
}
