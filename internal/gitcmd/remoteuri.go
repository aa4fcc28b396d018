package gitcmd

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"gitcluster/internal/cluster"
)

// A Protocol is how a repository on another host is reached. Its value is
// Git's name for it.
type Protocol string

// The protocols of remote repositories.
const (
	HTTPS   Protocol = "https"
	HTTP    Protocol = "http"
	SSH     Protocol = "ssh"
	Daemon  Protocol = "git"     // git-daemon(1): no encryption and no identity
	Cluster Protocol = "cluster" // git-remote-cluster(1)
)

func (p Protocol) isHTTP() bool { return p == HTTPS || p == HTTP }

// A RemoteURI is the address of a repository on another host. It comes from
// [ParseRemote] alone, so it holds no secret and nothing that Git or ssh could
// take for an option or a command.
type RemoteURI struct {
	Protocol Protocol
	User     string // who to log in as, if the address says so
	Host     string // "host" or "host:port"; "" for a cluster of the client configuration
	text     string
}

// String gives the address as Git is given it.
func (u RemoteURI) String() string { return u.text }

const remoteForms = "use https://host/path, ssh://user@host/path, user@host:path, git://host/path or cluster://host/path"

// maxRemote bounds an address; it is shown in tables and messages.
const maxRemote = 2048

// ParseRemote reads the address of a remote repository that an administrator
// gave: an https, http, ssh, git or cluster URL, "user@host:path", or
// "cluster::name:repo". It refuses whatever makes Git run a program of the address's choice
// ("ext::"), read this machine's own disk (file://, a path), or pass part of it
// as an option ("-oProxyCommand=…"); and any that holds a password, since other
// accounts can read the arguments of a process.
func ParseRemote(text string) (RemoteURI, error) {
	u := RemoteURI{text: text}
	err := checkRemoteText(text)
	if err == nil {
		scheme, rest, hasScheme := strings.Cut(text, "://")
		name, after, isHelper := strings.Cut(text, "::")
		switch {
		case isHelper && !strings.ContainsAny(name, "/@[") && name == string(Cluster):
			u.Protocol = Cluster
			err = checkClusterName(after)
		case isHelper && !strings.ContainsAny(name, "/@["):
			err = fmt.Errorf("%q names a program to run", clip(name)+"::")
		case hasScheme:
			err = u.parseURL(scheme, rest)
		default:
			err = u.parseSCP()
		}
	}
	if err != nil {
		return RemoteURI{}, cluster.WithHint(fmt.Errorf("remote %q: %w", withoutSecret(text), err), remoteForms)
	}
	return u, nil
}

func checkRemoteText(text string) error {
	switch {
	case text == "":
		return errors.New("it is empty")
	case len(text) > maxRemote:
		return fmt.Errorf("it is longer than %d bytes", maxRemote)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl):
		// A newline would end a line of Git's credential protocol early.
		return errors.New("it has control characters or is not UTF-8")
	case text[0] == '-':
		return errors.New(`it begins with "-"`)
	}
	return nil
}

func (u *RemoteURI) parseURL(scheme, rest string) error {
	switch u.Protocol = Protocol(scheme); u.Protocol {
	case HTTPS, HTTP, SSH, Daemon:
	case Cluster:
		return u.parseClusterURL(rest)
	case "file":
		return errors.New("a node does not read its own disk for a mirror")
	default:
		return fmt.Errorf("the protocol %q is not one a node follows", clip(scheme))
	}
	parsed, err := url.Parse(u.text)
	if err != nil {
		return errors.New("it is not a URL") // not err: it repeats the text
	}
	if _, has := parsed.User.Password(); has {
		return errPassword
	}
	if parsed.RawQuery != "" || parsed.ForceQuery || strings.Contains(u.text, "#") {
		// Some hosts take tokens there.
		return errors.New("it has more than a host and a path")
	}
	u.User, u.Host = parsed.User.Username(), parsed.Host
	if u.Protocol == Daemon && parsed.User != nil {
		return errors.New("the git protocol knows no users")
	}
	if parsed.User != nil {
		if err := checkUser(u.User); err != nil {
			return err
		}
	}
	if err := checkHostPort(parsed.Hostname(), parsed.Port()); err != nil {
		return err
	}
	return checkPath(strings.TrimPrefix(parsed.Path, "/"))
}

// parseSCP reads "user@host:path", ssh's short form.
func (u *RemoteURI) parseSCP() error {
	place, path, ok := strings.Cut(u.text, ":")
	if strings.HasPrefix(u.text, "[") || strings.Contains(place, "@[") {
		return errors.New("an IPv6 address needs the form ssh://[address]/path")
	}
	if !ok || strings.Contains(place, "/") {
		return errors.New("a node does not read its own disk for a mirror")
	}
	u.Protocol, u.Host = SSH, place
	if user, host, ok := strings.Cut(place, "@"); ok {
		u.User, u.Host = user, host
		if err := checkUser(user); err != nil {
			return err
		}
	}
	// In "user:password@host:path" the password is where the path should be.
	if strings.Contains(path, "@") && !strings.Contains(place, "@") {
		return errPassword
	}
	if err := checkHostPort(u.Host, ""); err != nil {
		return err
	}
	return checkPath(path)
}

// parseClusterURL checks "[user@]host[:port][,host…]/path". The helper checks
// the rest; it runs no command of an address's choice.
func (u *RemoteURI) parseClusterURL(rest string) error {
	hosts, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(hosts, '@'); i >= 0 {
		if err := checkUser(hosts[:i]); err != nil {
			return err
		}
		u.User, hosts = hosts[:i], hosts[i+1:]
	}
	u.Host = hosts
	for host := range strings.SplitSeq(hosts, ",") {
		parsed, err := url.Parse("cluster://" + host)
		if err != nil {
			return errors.New("it is not a URL")
		}
		if err := checkHostPort(parsed.Hostname(), parsed.Port()); err != nil {
			return err
		}
	}
	return checkPath(path)
}

// checkClusterName checks what follows "cluster::": "[user@][cluster:]repo".
func checkClusterName(name string) error {
	if strings.Contains(name, "://") {
		return errors.New("another kind of URL follows \"cluster::\"")
	}
	for part := range strings.FieldsFuncSeq(name, func(c rune) bool { return c == ':' || c == '@' }) {
		if part[0] == '-' {
			return errors.New(`a part of it begins with "-"`)
		}
	}
	if user, _, ok := strings.Cut(name, "@"); ok && strings.Contains(user, ":") {
		return errPassword
	}
	if strings.Trim(name, "/:@") == "" {
		return errors.New("it names no repository")
	}
	return nil
}

var errPassword = errors.New("it holds a password, which other accounts could read in the list of processes; use --credential FILE")

func checkUser(user string) error {
	switch {
	case user == "":
		return errors.New(`the user before "@" is empty`)
	case user[0] == '-':
		return errors.New(`the user begins with "-"`)
	case strings.Contains(user, ":"):
		return errPassword
	case strings.ContainsFunc(user, unicode.IsControl), strings.ContainsAny(user, "/@ "):
		return errors.New("the user has a character that is not allowed")
	}
	return nil
}

// checkHostPort allows DNS names and addresses. ssh would take a host that begins
// with "-" for an option, one of which runs a command.
func checkHostPort(host, port string) error {
	switch {
	case host == "":
		return errors.New("it names no host")
	case host[0] == '-':
		return errors.New(`the host begins with "-"`)
	}
	for _, c := range host {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("._-:", c)) {
			return fmt.Errorf("the host has the character %q", c)
		}
	}
	if strings.Trim(port, "0123456789") != "" || len(port) > 5 {
		return errors.New("the port is not a number")
	}
	return nil
}

func checkPath(path string) error {
	switch {
	case strings.Trim(path, "/") == "":
		return errors.New("it names no repository on the host")
	case path[0] == '-':
		return errors.New(`the path begins with "-"`)
	case strings.ContainsFunc(path, unicode.IsControl):
		return errors.New("the path has control characters")
	}
	return nil
}

// withoutSecret is the text for a message: what stands before an "@" may be a
// password, and so may a query.
func withoutSecret(text string) string {
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		text = "…" + text[i:]
	}
	if i := strings.IndexAny(text, "?#"); i >= 0 {
		text = text[:i] + "…"
	}
	return clip(text)
}

func clip(s string) string {
	if len(s) > 120 {
		return strings.ToValidUTF8(s[:117], "") + "…"
	}
	return s
}
