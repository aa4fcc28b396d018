package cluster

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A RepoName is the name people use for a repository: one or more path parts
// joined by slashes, such as "demo/hello". It never starts or ends with a slash
// and never ends in ".git".
type RepoName string

// MaxRepoName is the greatest length of a RepoName in bytes.
const MaxRepoName = 255

// maxRepoParts bounds the folders of a name: a new one is compared with each of
// them in one transaction.
const maxRepoParts = 20

// ParseRepoName checks a repository name as a person or a Git client wrote it.
// A leading slash and a trailing ".git" or slash, which Git's URL forms add,
// are dropped first.
//
// Each part holds letters, digits and the marks ". _ - +" (and any printable
// non-ASCII letter), does not start with "." or "-", and does not end with "."
// or ".lock" or ".git". Those rules keep a name from leaving the repository root, from being
// taken for an option, and from clashing with the ".git" suffix of the HTTP
// addresses.
func ParseRepoName(s string) (RepoName, error) {
	bad := func(format string, a ...any) (RepoName, error) {
		return "", fmt.Errorf("%w %q: %s", ErrBadRepoName, clip(s), fmt.Sprintf(format, a...))
	}
	name := strings.TrimPrefix(s, "/")
	name = strings.TrimSuffix(name, "/")
	name = strings.TrimSuffix(name, ".git")
	switch {
	case name == "":
		return bad("it is empty")
	case len(name) > MaxRepoName:
		return bad("it is longer than %d bytes", MaxRepoName)
	case !utf8.ValidString(name):
		return bad("it is not UTF-8")
	case strings.Count(name, "/") >= maxRepoParts:
		return bad("it has more than %d parts", maxRepoParts)
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "":
			return bad("it has an empty part")
		case part == "." || part == "..":
			return bad("it has a part %q", part)
		case part[0] == '.' || part[0] == '-':
			return bad("the part %q starts with %q", part, part[:1])
		case strings.HasSuffix(part, "."), strings.HasSuffix(part, ".lock"), strings.HasSuffix(part, ".git"):
			return bad("the part %q has an ending that Git keeps for itself", part)
		}
		for _, r := range part {
			if r > unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r)) {
				continue
			}
			if !isPlain(r) {
				return bad("it has the character %q", r)
			}
		}
	}
	return RepoName(name), nil
}

// Ancestors returns the names that are folders of n: for "a/b/c", "a" and "a/b".
// A repository cannot be both a repository and a folder of others.
func (n RepoName) Ancestors() []RepoName {
	var all []RepoName
	for i, c := range n {
		if c == '/' {
			all = append(all, n[:i])
		}
	}
	return all
}

// A RepoID names a repository for as long as it exists, whatever people call
// it: 16 hexadecimal digits. Journal keys and directories use it, so a rename
// moves no data.
type RepoID string

// ParseRepoID checks that s has the form of a RepoID.
func ParseRepoID(s string) (RepoID, error) {
	if len(s) != 16 || !isHex(s) {
		return "", fmt.Errorf("repository id %q is not 16 hexadecimal digits", clip(s))
	}
	return RepoID(s), nil
}

// A DeviceName names a machine identity. Every node is a device.
type DeviceName string

// A UserName names a person or a robot that acts as one.
type UserName string

// ParseDeviceName checks a device name: letters, digits and ". _ -", at most 64
// bytes, starting with a letter or digit.
func ParseDeviceName(s string) (DeviceName, error) {
	if err := plainName(s); err != nil {
		return "", fmt.Errorf("bad device name %q: %w", clip(s), err)
	}
	return DeviceName(s), nil
}

// ParseUserName checks a user name by the rules of [ParseDeviceName].
func ParseUserName(s string) (UserName, error) {
	if err := plainName(s); err != nil {
		return "", fmt.Errorf("bad user name %q: %w", clip(s), err)
	}
	return UserName(s), nil
}

func plainName(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("it is empty")
	case len(s) > 64:
		return fmt.Errorf("it is longer than 64 bytes")
	case !isAlnum(rune(s[0])):
		return fmt.Errorf("it does not start with a letter or digit")
	}
	for _, r := range s {
		if r == '+' || !isPlain(r) {
			return fmt.Errorf("it has the character %q", r)
		}
	}
	return nil
}

func isAlnum(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

func isPlain(r rune) bool {
	return isAlnum(r) || r == '.' || r == '_' || r == '-' || r == '+'
}

func isHex(s string) bool {
	for _, c := range []byte(s) {
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return s != ""
}

// clip keeps a stranger's text from filling a terminal or a log.
func clip(s string) string {
	if len(s) > 80 {
		return s[:77] + "..."
	}
	return s
}
