// Package address reads the addresses that people give to Git for a repository
// of a cluster:
//
//	cluster::repo                          the default cluster of the client's configuration
//	cluster::name:repo                     the cluster of that name
//	cluster://host[:port][,host…]/repo     these hosts, without any configuration
//
// Each may carry "user@" before the repository, the name or the hosts.
//
// Entry points: [Parse] for an address as a person wrote it, [FromArgs] for the
// arguments Git gives to a remote helper.
//
// It promises that no part of a parsed address holds a control byte, that no
// host, user or path can be taken for an option by a program it is given to,
// and that an error never repeats a password somebody put into an address.
package address

import (
	"errors"
	"fmt"
	"strings"

	"gitcluster/internal/cluster"
)

// An Address names a repository and where to look for it: by the name of a
// configured cluster, or by hosts.
type Address struct {
	Cluster string // the configured cluster; "" for the default one, and with Hosts
	Hosts   []Host // where to look; nil for a configured cluster
	User    string // the SSH user, if the address names one
	// Path is the repository as the server is asked for it. For a configured
	// cluster it is a repository name. For hosts it is the path as an ssh://
	// URL would send it, since a host may be a plain SSH server: "/srv/x.git",
	// "~user/x".
	Path string
}

// A Host is one server named in an address.
type Host struct {
	Name string // a DNS name or an IP address, without brackets
	Port uint16 // 0 when the address names none
}

// Limits on an address. They are far above what Git or a shell lets through.
const (
	maxAddress = 8 << 10
	maxHosts   = 64
	maxHost    = 255
	maxUser    = 255
)

// ErrBadAddress: the text is not an address of this package's forms.
var ErrBadAddress = errors.New("bad address")

const formsHint = "use cluster::repo, cluster::name:repo or cluster://host/repo"

// FromArgs reads an address from a remote helper's arguments: the remote's name
// and what Git takes for its URL.
//
// Git drops the leading "cluster::" from the second argument, and keeps
// "cluster://". For a remote with `remote.<name>.vcs` and no URL, Git gives the
// remote's name as the URL or no second argument at all, so the name is the repository.
func FromArgs(args []string) (Address, error) {
	switch len(args) {
	case 1, 2:
		return Parse(args[len(args)-1])
	}
	return Address{}, cluster.WithHint(
		fmt.Errorf("%d arguments instead of the remote's name and its address", len(args)),
		"Git runs this program for addresses that begin with cluster:: or cluster://")
}

// Parse reads an address, with or without the leading "cluster::".
func Parse(s string) (Address, error) {
	text := strings.TrimPrefix(s, "cluster::")
	if err := checkText(text); err != nil {
		return Address{}, fail(s, err)
	}
	parse := parseName
	if rest, ok := strings.CutPrefix(text, "cluster://"); ok {
		parse, text = parseURL, rest
	}
	a, err := parse(text)
	if err != nil {
		return Address{}, fail(s, err)
	}
	return a, nil
}

// String gives the address in a form that Parse reads back.
func (a Address) String() string {
	var b strings.Builder
	if a.Hosts == nil {
		b.WriteString("cluster::")
		if a.User != "" {
			b.WriteString(a.User + "@")
		}
		if a.Cluster != "" {
			b.WriteString(a.Cluster + ":")
		}
		b.WriteString(a.Path)
		return b.String()
	}
	b.WriteString("cluster://")
	if a.User != "" {
		b.WriteString(escape(a.User) + "@")
	}
	for i, h := range a.Hosts {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(h.String())
	}
	if !strings.HasPrefix(a.Path, "/") {
		b.WriteByte('/')
	}
	b.WriteString(escape(a.Path))
	return b.String()
}

// parseName reads "[user@][cluster:]repo".
func parseName(text string) (a Address, err error) {
	if user, rest, ok := strings.Cut(text, "@"); ok {
		if a.User, err = parseUser(user); err != nil {
			return a, err
		}
		text = rest
	}
	if name, rest, ok := strings.Cut(text, ":"); ok {
		if strings.HasPrefix(rest, "//") {
			return a, fmt.Errorf("%q is not a cluster's name but the start of another kind of URL", name+"://")
		}
		if err := checkClusterName(name); err != nil {
			return a, err
		}
		a.Cluster, text = name, rest
	}
	repo, err := cluster.ParseRepoName(text)
	a.Path = string(repo)
	return a, err
}

// checkClusterName checks a cluster's name: letters, digits and ". _ -", at most
// 64 bytes, starting with a letter or digit.
func checkClusterName(name string) error {
	if name == "" {
		return errors.New("the cluster's name is empty")
	}
	for i, c := range []byte(name) {
		if isAlnum(c) || i > 0 && strings.IndexByte("._-", c) >= 0 {
			continue
		}
		return fmt.Errorf("the cluster's name has the character %q", c)
	}
	if len(name) > 64 {
		return errors.New("the cluster's name is longer than 64 bytes")
	}
	return nil
}

// checkText refuses what no part of an address may hold. A newline would end a
// line of the SSH or Git protocol early; an escape byte would act on the
// terminal of whoever reads an error message.
func checkText(s string) error {
	if len(s) > maxAddress {
		return fmt.Errorf("it is longer than %d bytes", maxAddress)
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return fmt.Errorf("it has the control byte %#02x", s[i])
		}
	}
	return nil
}

// fail makes the error for address s. What stands before an "@" is left out: it
// may hold a password.
func fail(s string, err error) error {
	shown := s
	if i := strings.LastIndexByte(shown, '@'); i >= 0 {
		shown = "…" + shown[i:]
	}
	if len(shown) > 120 {
		shown = shown[:117] + "…"
	}
	return cluster.WithHint(fmt.Errorf("%w %q: %w", ErrBadAddress, shown, err), formsHint)
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
