package observe

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/journal"
)

// maxCredential is far above a key or a token, in bytes.
const maxCredential = 64 << 10

const credentialForms = `give an SSH private key without a passphrase, or the lines "username=…" and "password=…", or one line https://user:password@host`

// NewRemote checks the address of a remote and what belongs to it: the text of a
// credential, or "", and whether the node is to show its device identity.
// Errors never repeat the credential.
func NewRemote(uri, credential string, device bool) (cluster.Remote, journal.Credential, error) {
	var c journal.Credential
	parsed, err := gitcmd.ParseRemote(uri)
	if err != nil {
		return cluster.Remote{}, c, err
	}
	r := cluster.Remote{URI: uri}
	if credential != "" {
		if c, r.Credential, err = parseCredential(credential, parsed); err != nil {
			return cluster.Remote{}, journal.Credential{}, cluster.WithHint(fmt.Errorf("the credential: %w", err), credentialForms)
		}
	}
	if device {
		if r.Credential != "" {
			return cluster.Remote{}, journal.Credential{}, errors.New("the device's identity and a user's credential exclude each other")
		}
		r.Credential = cluster.CredentialDevice
	}
	// The rules of what fits what are those of the command builder.
	files := gitcmd.Remote{URI: parsed, KnownHosts: "/known_hosts", Home: "/home", Identity: identity(r.Credential, "/credential", "/device")}
	_, err = files.ListRefs()
	return r, c, err
}

// identity is a remote's by the kind of its credential.
func identity(kind, file, deviceDir string) gitcmd.Identity {
	switch kind {
	case cluster.CredentialKey:
		return gitcmd.Identity{Key: file}
	case cluster.CredentialPassword:
		return gitcmd.Identity{Password: file}
	case cluster.CredentialDevice:
		return gitcmd.Identity{DeviceDir: deviceDir}
	}
	return gitcmd.Identity{}
}

// parseCredential reads a key, the lines that `git credential fill` prints, or a
// line of a git-credential-store(1) file.
func parseCredential(text string, uri gitcmd.RemoteURI) (c journal.Credential, kind string, err error) {
	if len(text) > maxCredential {
		return c, "", errors.New("it is too large")
	}
	if strings.Contains(text, "PRIVATE KEY") {
		_, err := ssh.ParseRawPrivateKey([]byte(text))
		var encrypted *ssh.PassphraseMissingError
		switch {
		case errors.As(err, &encrypted):
			return c, "", errors.New("the key has a passphrase, which nobody would be there to give")
		case err != nil:
			return c, "", errors.New("the private key cannot be read")
		}
		// OpenSSH wants a newline at the end.
		return journal.Credential{Key: string(bytes.TrimRight([]byte(text), "\r\n")) + "\n"}, cluster.CredentialKey, nil
	}
	host := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		key, value, _ := strings.Cut(line, "=")
		switch {
		case strings.TrimSpace(line) == "":
		case key == "username":
			c.Username = value
		case key == "password":
			c.Password = value
		case key == "host":
			host = value
		case key == "protocol", key == "path", key == "password_expiry_utc", strings.HasPrefix(key, "capability"):
		case strings.Contains(line, "://") && c == (journal.Credential{}):
			u, err := url.Parse(line)
			if err != nil {
				return c, "", errors.New("the URL cannot be read") // not err: it repeats it
			}
			c.Username, host = u.User.Username(), u.Host
			c.Password, _ = u.User.Password()
		default:
			return c, "", errors.New("it has a line that is none of a credential")
		}
	}
	switch {
	case c.Username == "" || c.Password == "":
		return c, "", errors.New("it names no user or no password")
	case host != "" && host != uri.Host:
		// A password belongs to one host; the file may be the wrong one.
		return c, "", fmt.Errorf("it is for another host than %s", uri.Host)
	case uri.User != "" && uri.User != c.Username:
		return c, "", errors.New("it is for another user than the address names")
	case strings.ContainsFunc(c.Username+c.Password, unicode.IsControl):
		// A newline would end a line of Git's credential protocol early.
		return c, "", errors.New("the user or the password has control characters")
	}
	return c, cluster.CredentialPassword, nil
}

// file is the credential as Git or ssh reads it.
func file(c journal.Credential, uri gitcmd.RemoteURI) string {
	if c.Key != "" {
		return c.Key
	}
	host := uri.Host
	u := url.URL{Scheme: string(uri.Protocol), Host: host, User: url.UserPassword(c.Username, c.Password)}
	return u.String() + "\n"
}
