package sshclient

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
)

// A hostCheck decides whether a server is the one it should be. It stops
// whoever can redirect the connection from reading and changing what goes over
// it.
type hostCheck struct {
	algorithms []string // what to ask the server for; nil for any
	refusal    error    // why check refused, as the library hides it in text
	want       ssh.PublicKey
	known      ssh.HostKeyCallback
	knownFile  string // where a new key would be added
}

func newHostCheck(o Options) (*hostCheck, error) {
	if o.HostKey != nil {
		return &hostCheck{want: o.HostKey, algorithms: algorithmsOf(o.HostKey)}, nil
	}
	files := o.KnownHosts
	if len(files) == 0 {
		if home, err := os.UserHomeDir(); err == nil {
			files = append(files, filepath.Join(home, ".ssh", "known_hosts"))
		}
		files = append(files, "/etc/ssh/ssh_known_hosts")
	}
	h := &hostCheck{knownFile: files[0]}
	var existing []string
	for _, f := range files {
		if _, err := os.Stat(f); err == nil {
			existing = append(existing, f)
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("known hosts: %w", err)
		}
	}
	db, err := knownhosts.NewDB(existing...)
	if err != nil {
		return nil, cluster.WithHint(fmt.Errorf("known hosts: %w", err), "correct or remove that line")
	}
	h.known = db.HostKeyCallback()
	// Ask for the kinds of key that are known: the server may have others,
	// which would look like a change.
	h.algorithms = db.HostKeyAlgorithms(o.Addr)
	return h, nil
}

func (h *hostCheck) check(addr string, remote net.Addr, key ssh.PublicKey) error {
	h.refusal = h.judge(addr, remote, key)
	return h.refusal
}

func (h *hostCheck) judge(addr string, remote net.Addr, key ssh.PublicKey) error {
	shown := fmt.Sprintf("%s %s", key.Type(), ssh.FingerprintSHA256(key))
	if h.want != nil {
		if string(key.Marshal()) == string(h.want.Marshal()) {
			return nil
		}
		return cluster.WithHint(
			fmt.Errorf("%w: the server has %s, the configuration %s", ErrHostKeyChanged, shown, ssh.FingerprintSHA256(h.want)),
			"if the server's operator confirms the new key, put it into the configuration; else somebody may be listening in between")
	}
	err := h.known(addr, remote, key)
	switch {
	case err == nil:
		return nil
	case knownhosts.IsHostKeyChanged(err):
		return cluster.WithHint(
			fmt.Errorf("%w: the server has %s, which is not the one in known_hosts", ErrHostKeyChanged, shown),
			fmt.Sprintf("if the server's operator confirms the new key, forget the old one: ssh-keygen -f %s -R %s",
				shellWord(h.knownFile), shellWord(knownhosts.Normalize(addr))))
	case knownhosts.IsHostUnknown(err):
		host, port, _ := net.SplitHostPort(addr)
		return cluster.WithHint(
			fmt.Errorf("%w: the server has %s", ErrHostKeyUnknown, shown),
			fmt.Sprintf("if the server's operator confirms that key, add it: ssh-keyscan -t %s -p %s %s >>%s",
				scanType(key), port, shellWord(host), shellWord(h.knownFile)))
	}
	return fmt.Errorf("host key: %w", err)
}

// algorithmsOf lists the signature algorithms a server may prove a key with.
func algorithmsOf(key ssh.PublicKey) []string {
	if key.Type() == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{key.Type()}
}

// scanType is what ssh-keyscan calls the kind of a key.
func scanType(key ssh.PublicKey) string {
	switch t := key.Type(); {
	case t == ssh.KeyAlgoRSA:
		return "rsa"
	case strings.HasPrefix(t, "ecdsa-"):
		return "ecdsa"
	}
	return "ed25519"
}

// shellWord quotes a word that is shown for pasting into a shell.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._-:@", r)
	}
	if strings.TrimFunc(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
