// Package sshconfig answers what ssh_config(5) says of a host: the user's
// ~/.ssh/config first and the system's file after it, the first value of a
// setting winning.
//
// Entry point: [Config.Lookup].
//
// It promises to run nothing and to ask nobody; to read regular files only, and
// no more than a bound of them; to leave out nothing silently that would change
// whom a connection reaches or how the server is checked: such a setting that
// this module's own SSH client cannot follow is named in [Host.Beyond], and ssh
// has to be run instead.
package sshconfig

import (
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// A Config is the configuration of an account. Its files are read once, when
// they are first needed.
type Config struct {
	Home   string // for ~ and ~/.ssh
	System string // the system's file; "" for none
	Getenv func(string) string

	once sync.Once
	tree []*file // the user's and the system's, those that exist
	err  error
	// doubted are files that somebody else may have written: what they say is for
	// ssh to follow, or not.
	doubted []string
}

// New returns the configuration ssh would read: that of the account whose home
// is $HOME (%USERPROFILE% on Windows), and the system's.
func New(getenv func(string) string) *Config {
	c := &Config{Getenv: getenv, System: "/etc/ssh/ssh_config"}
	c.Home, _ = os.UserHomeDir()
	if runtime.GOOS == "windows" {
		c.System = filepath.Join(getenv("ProgramData"), "ssh", "ssh_config")
	}
	return c
}

// A Target is a host as somebody named it, and what they said about it.
// What they said counts more than any file.
type Target struct {
	Host string
	User string // "" if they named none
	Port int    // 0 if they named none
	// DefaultUser is who to log in as if neither they nor the files name
	// anybody; "" is the own account's name.
	DefaultUser string
}

// A Host is what there is to know for connecting to a [Target]. A zero field is a
// setting that is made nowhere.
type Host struct {
	Name string // the name or address to connect to; never ""
	Port int    // never 0
	User string // never ""
	// UserSet: the files name the user.
	UserSet bool

	IdentityFiles    []string // not nil but empty: "none"
	CertificateFiles []string
	IdentityAgent    string // a socket, or "none"
	IdentitiesOnly   bool
	AddKeysToAgent   bool
	UseKeychain      bool // ssh on macOS finds passphrases by itself

	UserKnownHosts   []string // not nil but empty: "none"
	GlobalKnownHosts []string // the same
	HashKnownHosts   bool
	HostKeyAlias     string
	StrictHostKeys   string // "yes", "no", "ask" or "accept-new"

	Jumps          []Target // servers to go through, in that order
	ConnectTimeout time.Duration
	AddressFamily  string // "inet" or "inet6"
	Batch          bool   // nobody is there to be asked

	// Lists as the file has them, with a first "+", "-" or "^".
	HostKeyAlgorithms, CASignatureAlgorithms, Ciphers, MACs, KexAlgorithms string
	// RequiredRSABits is how long an RSA key has to be, the server's or one's own.
	RequiredRSABits int

	// Beyond names the settings for which ssh must be run, with their places:
	// "ProxyCommand (~/.ssh/config line 3)".
	Beyond []string
	// IfRefused names those by which ssh may get in where the server took no
	// key from us.
	IfRefused []string
}

// Lookup returns what the files say of a target. The error says that they cannot
// be read.
func (c *Config) Lookup(t Target) (*Host, error) {
	c.once.Do(c.read)
	if c.err != nil {
		return nil, c.err
	}
	e := &evaluation{config: c, target: t, host: &Host{User: t.User, Port: t.Port}, set: map[string]bool{}}
	e.set["user"], e.set["port"] = t.User != "", t.Port != 0
	e.named = t.Host
	e.pass()
	if e.wantsFinal {
		e.final = true
		// As ssh has it, the host is settled by now, and known by its real name.
		e.named = strings.ToLower(e.hostName())
		e.host.Name, e.set["hostname"] = strings.ReplaceAll(e.named, "%", "%%"), true
		e.pass()
	}
	e.expand()
	e.host.Beyond = append(e.host.Beyond, c.doubted...)
	return e.host, nil
}

// An evaluation goes through the files for one target.
type evaluation struct {
	config     *Config
	target     Target
	host       *Host
	set        map[string]bool // settings that have their value
	named      string          // what Host lines are compared with
	final      bool            // the second pass, which "Match final" asks for
	wantsFinal bool
	unknown    []string // patterns of IgnoreUnknown
}

func (e *evaluation) pass() {
	for _, f := range e.config.tree {
		e.run(f, true)
	}
}

// run applies a file. What an included file says counts only where the line
// that includes it counts.
func (e *evaluation) run(f *file, outer bool) {
	active := outer
	for i := range f.lines {
		l := &f.lines[i]
		switch l.key {
		case "host":
			active = outer && matchHost(e.named, l.args)
		case "match":
			active = outer && e.match(l)
		case "include":
			if active && l.opaque {
				e.beyond("Include", l)
			}
			for _, inner := range l.included {
				e.run(inner, active)
			}
		default:
			if active {
				e.apply(l)
			}
		}
	}
}

// LocalUser is the name of the account that runs this, by which ssh logs in where
// nobody says otherwise.
func (c *Config) LocalUser() string {
	// Cheaper than asking the system, which may have to ask a directory server.
	for _, name := range []string{"USER", "LOGNAME", "USERNAME"} {
		if v := c.Getenv(name); v != "" {
			return v
		}
	}
	if u, err := user.Current(); err == nil {
		return u.Username[strings.LastIndexByte(u.Username, '\\')+1:]
	}
	return ""
}
