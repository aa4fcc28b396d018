package credential

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"
	"unicode"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// gitName is this helper's name in Git's configuration; Git runs
// "git credential-device" for it.
const gitName = "device"

// ErrBadURL: the text is not an address that Git's configuration can be scoped by.
var ErrBadURL = errors.New("bad URL")

// Configure tells Git, for this account, to ask this helper about addresses that
// begin with rawURL. Other helpers for the same addresses stay.
func (h *Helper) Configure(ctx context.Context, rawURL string) error {
	key, err := configKey(rawURL)
	if err != nil {
		return err
	}
	values, err := h.git(ctx, 1, "--null", "--get-all", key)
	if err != nil {
		return err
	}
	for value := range strings.SplitSeq(string(values), "\x00") {
		if value == gitName {
			return nil
		}
	}
	_, err = h.git(ctx, 0, "--add", key, gitName)
	return err
}

// Unconfigure takes back what Configure did, and nothing else.
func (h *Helper) Unconfigure(ctx context.Context, rawURL string) error {
	key, err := configKey(rawURL)
	if err != nil {
		return err
	}
	_, err = h.git(ctx, 5, "--fixed-value", "--unset-all", key, gitName)
	return err
}

// configured lists the URLs of Configure.
func (h *Helper) configured(ctx context.Context) (urls []string, err error) {
	out, err := h.git(ctx, 1, "--includes", "--null", "--get-regexp", `^credential\..*\.helper$`)
	var exit *gitexec.ExitError
	if errors.As(err, &exit) {
		return nil, nil // an account without a home has no such configuration
	}
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(out), "\x00") {
		key, value, _ := strings.Cut(entry, "\n")
		if value == gitName {
			urls = append(urls, strings.TrimSuffix(strings.TrimPrefix(key, "credential."), ".helper"))
		}
	}
	return urls, nil
}

// git runs `git config --global`. The exit status nothing is its way to say that
// there was nothing to read or to remove.
func (h *Helper) git(ctx context.Context, nothing int, args ...string) ([]byte, error) {
	out, err := new(gitexec.Runner).Output(ctx, gitcmd.Command{
		Args: append([]string{"git", "config", "--global"}, args...),
		Env:  h.Environ,
	}, nil)
	var exit *gitexec.ExitError
	if errors.As(err, &exit) && exit.Status == nothing && nothing != 0 {
		return nil, nil
	}
	return out, err
}

// configKey returns credential.<url>.helper for a URL, spelled in one way.
func configKey(rawURL string) (string, error) {
	bad := func(why string) (string, error) {
		return "", cluster.WithHint(fmt.Errorf("%w %q: %s", ErrBadURL, clip(rawURL), why), "use https://host[:port][/path]")
	}
	if len(rawURL) > 2048 || strings.ContainsFunc(rawURL, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		return bad("it is too long or has blanks or characters that cannot be printed")
	}
	u, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return bad("it is no URL")
	case u.Scheme != "https":
		return bad("it is not an https:// address")
	case u.User != nil:
		// Not repeated: there may be a password in it.
		return "", cluster.WithHint(fmt.Errorf("%w: it names a user", ErrBadURL), "use https://host[:port][/path]")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(rawURL, "#"):
		return bad("it has more than a host and a path")
	}
	if _, err := Audience(u.Host); err != nil {
		return bad("its host is not the name or address of a server")
	}
	host := strings.ToLower(u.Hostname())
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port := u.Port(); port != "" && port != "443" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return bad("its port is not 1 to 65535")
		}
		host += ":" + port
	}
	where := strings.TrimRight(u.EscapedPath(), "/")
	if where != "" && path.Clean(where) != where {
		return bad("its path has empty parts or dots")
	}
	return "credential.https://" + host + where + ".helper", nil
}
