package sshclient

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"

	"gitcluster/internal/cluster"
)

// maxKnownHosts bounds a file of host keys.
const maxKnownHosts = 32 << 20

// knownHosts is what the files of host keys say.
type knownHosts struct {
	db       *knownhosts.HostKeyDB
	writable string            // where a new key would be added; "" for nowhere
	names    map[string]string // of files that are read from a copy
}

// loadKnownHosts reads those of the files that exist. A nil list is the usual
// one of the account or of the system. With pinned, files that cannot be read do not
// matter.
func loadKnownHosts(user, global []string, pinned bool) (*knownHosts, error) {
	if user == nil {
		if home, err := os.UserHomeDir(); err == nil {
			user = []string{filepath.Join(home, ".ssh", "known_hosts"), filepath.Join(home, ".ssh", "known_hosts2")}
		}
	}
	if global == nil {
		dir := "/etc/ssh"
		if runtime.GOOS == "windows" {
			dir = filepath.Join(os.Getenv("ProgramData"), "ssh")
		}
		global = []string{filepath.Join(dir, "ssh_known_hosts"), filepath.Join(dir, "ssh_known_hosts2")}
	}
	k := &knownHosts{}
	if len(user) > 0 {
		k.writable = user[0]
	}
	var existing []string
	for i, f := range append(append([]string(nil), user...), global...) {
		info, err := os.Stat(f)
		if err == nil {
			err = tryRead(f)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil && pinned:
		case i >= len(user) && errors.Is(err, fs.ErrPermission): // the system's file is not this account's to correct
		case err != nil:
			return nil, cluster.WithHint(fmt.Errorf("known hosts: %w", err), fmt.Sprintf("let your account read %s, or remove it", f))
		case !info.Mode().IsRegular():
			// /dev/null, by which people forget hosts; a pipe would never end.
			if f == k.writable {
				k.writable = ""
			}
		case info.Size() > maxKnownHosts:
			return nil, fmt.Errorf("known hosts: %s is larger than %d bytes", f, maxKnownHosts)
		default:
			existing = append(existing, f)
		}
	}
	var err error
	if k.db, err = knownhosts.NewDB(existing...); err != nil {
		// One line that the library cannot read would make all of them useless.
		k.db, err = k.readable(existing)
	}
	if err != nil {
		return nil, fmt.Errorf("known hosts: %w", err)
	}
	return k, nil
}

func tryRead(file string) error {
	f, err := os.OpenFile(file, os.O_RDONLY|nonBlocking, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// readable reads copies of the files in which the lines that cannot be read are
// empty, as ssh passes over them. A key that such a line revokes could not be
// refused, so that stays an error.
func (k *knownHosts) readable(files []string) (*knownhosts.HostKeyDB, error) {
	dir, err := os.MkdirTemp("", "git-cluster-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	k.names = map[string]string{}
	var copies []string
	for i, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		var kept bytes.Buffer
		number := 0
		for line := range bytes.SplitSeq(text, []byte("\n")) {
			number++
			if isReadable(string(line)) {
				kept.Write(line)
			} else if bytes.HasPrefix(bytes.TrimSpace(line), []byte("@revoked")) {
				return nil, cluster.WithHint(fmt.Errorf("%s line %d revokes a key that cannot be read", f, number), "correct or remove that line")
			}
			kept.WriteByte('\n')
		}
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, kept.Bytes(), 0o600); err != nil {
			return nil, err
		}
		k.names[path] = f
		copies = append(copies, path)
	}
	return knownhosts.NewDB(copies...)
}

// maxLine is as long a line as the library reads.
const maxLine = 60 << 10

// isReadable reports whether the library can read a line.
func isReadable(line string) bool {
	line = strings.Trim(line, " \t\r")
	if line == "" || line[0] == '#' {
		return true
	}
	fields := strings.Fields(line)
	if fields[0] == "@cert-authority" || fields[0] == "@revoked" {
		fields = fields[1:]
	}
	if len(line) > maxLine || len(fields) < 3 || fields[0][0] == '@' || !areHosts(fields[0]) {
		return false
	}
	blob, err := base64.StdEncoding.DecodeString(fields[2])
	if err != nil {
		return false
	}
	key, err := ssh.ParsePublicKey(blob)
	return err == nil && key.Type() == fields[1]
}

func areHosts(s string) bool {
	if s[0] == '|' {
		parts := strings.Split(s, "|")
		if len(parts) != 4 || parts[1] != "1" {
			return false
		}
		_, saltErr := base64.StdEncoding.DecodeString(parts[2])
		_, hashErr := base64.StdEncoding.DecodeString(parts[3])
		return saltErr == nil && hashErr == nil
	}
	for host := range strings.SplitSeq(s, ",") {
		rest, negated := strings.CutPrefix(host, "!")
		if negated && rest == "" {
			return false
		}
		if _, _, err := net.SplitHostPort(rest); strings.HasPrefix(rest, "[") && err != nil {
			return false
		}
	}
	return true
}

// hasKey reports whether a key of the host itself is known, not only of an
// authority that may vouch for it.
func (k *knownHosts) hasKey(name string) bool {
	for _, key := range k.db.HostKeys(name) {
		if !key.Cert {
			return true
		}
	}
	return false
}

// kinds are the algorithms that a host may prove its known keys with, and whether an
// authority may vouch for it.
func (k *knownHosts) kinds(name string) (algorithms []string, authority bool) {
	for _, key := range k.db.HostKeys(name) {
		if key.Cert {
			authority = true
			continue
		}
		algorithms = append(algorithms, without(algorithmsOf(key), algorithms)...)
	}
	return algorithms, authority
}

func (k *knownHosts) isAuthority(key xknownhosts.KnownKey) bool {
	text, err := os.ReadFile(k.shown(key.Filename))
	if err != nil {
		return false
	}
	lines := bytes.SplitN(text, []byte("\n"), key.Line+1)
	return key.Line <= len(lines) && bytes.HasPrefix(bytes.TrimSpace(lines[key.Line-1]), []byte("@cert-authority"))
}

func (k *knownHosts) shown(file string) string {
	if name, ok := k.names[file]; ok {
		return name
	}
	return file
}

// addKnownHost adds a line to a file that other programs may be adding to.
func addKnownHost(file, name string, hash bool, key ssh.PublicKey) error {
	if hash {
		name = xknownhosts.HashHostname(name)
	}
	line := name + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + "\n"
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	// A last line without its end would swallow ours.
	if info, err := f.Stat(); err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			line = "\n" + line
		}
	}
	if _, err := f.WriteString(line); err != nil {
		return err
	}
	return f.Close()
}
