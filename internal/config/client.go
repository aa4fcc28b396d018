package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/BurntSushi/toml"
	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
)

// EnvClient is the environment variable that names the client's file.
const EnvClient = "GIT_CLUSTER_CONFIG"

// A Client is what `git` on somebody's machine has to know of the clusters it
// uses: the file client.toml.
type Client struct {
	Default  string              `toml:"default,omitempty"` // the cluster of "cluster::repo"
	Clusters map[string]*Cluster `toml:"cluster"`
}

// A Cluster is how to reach one cluster.
type Cluster struct {
	User       string `toml:"user,omitempty"`        // SSH user; "" for what ssh_config(5) says, or else DefaultUser
	Identity   string `toml:"identity,omitempty"`    // private key file; only this one is used
	KnownHosts string `toml:"known-hosts,omitempty"` // instead of the user's and the system's files
	Region     string `toml:"region,omitempty"`      // where this machine is; nodes of that region are preferred
	// SyncWait is how long to wait for the nearest replica's update before the
	// others are asked for one that needs none; 0 for the client's default.
	SyncWait time.Duration `toml:"sync-wait,omitzero"`
	// Learn is false to use no nodes but these. The others are learned from them.
	Learn *bool  `toml:"learn,omitempty"`
	Nodes []Node `toml:"node"` // in order of preference
}

// Learns reports whether nodes that the file does not name are used.
func (c *Cluster) Learns() bool { return c.Learn == nil || *c.Learn }

// A Node is one server of a cluster.
type Node struct {
	Name    string `toml:"name"`
	SSH     string `toml:"ssh"`                // host:port
	HostKey string `toml:"host-key,omitempty"` // an authorized_keys line; only this key is accepted
	Region  string `toml:"region,omitempty"`   // where it is, if the cluster's word for that is not to be taken
}

// DefaultUser is the SSH user where nothing names one.
const DefaultUser = "git"

// ErrNoCluster: the configuration does not say which cluster is meant.
var ErrNoCluster = errors.New("no such cluster")

// ClientPath returns the client's file: $GIT_CLUSTER_CONFIG if that is set,
// else the first that exists of git-cluster/client.toml in $XDG_CONFIG_HOME or
// ~/.config, in the platform's own place, and in /etc; on Windows the platform's
// own place comes first. Where none exists it is the first of them, where a new
// file belongs.
func ClientPath() string {
	if path := os.Getenv(EnvClient); path != "" {
		return path
	}
	places := clientPlaces()
	for _, path := range places {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return places[0]
}

func clientPlaces() (places []string) {
	add := func(dir string) {
		places = append(places, filepath.Join(dir, "git-cluster", "client.toml"))
	}
	xdg := os.Getenv("XDG_CONFIG_HOME")
	if filepath.IsAbs(xdg) {
		add(xdg)
	} else {
		if home, err := os.UserHomeDir(); err == nil {
			add(filepath.Join(home, ".config"))
		}
		if dir, err := os.UserConfigDir(); err == nil {
			add(dir) // ~/Library/Application Support, %AppData%
		}
		if runtime.GOOS == "windows" {
			slices.Reverse(places) // nobody looks for files in ~/.config there
		}
	}
	if runtime.GOOS != "windows" || len(places) == 0 {
		add("/etc")
	}
	return places
}

// LoadClient reads and checks the client's file at path. File names in the
// result are absolute: in the file they may start with "~/", and are otherwise
// relative to the file's directory.
func LoadClient(path string) (*Client, error) {
	text, err := readFile(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = cluster.WithHint(fmt.Errorf("no client configuration: %w", err),
				"write it with `git cluster use HOST`, or name another in $"+EnvClient+", or use an address that needs none: cluster://host/repo")
		}
		return nil, err
	}
	c, err := decode(path, text)
	if err != nil {
		return nil, err
	}
	if err := c.check(path, text); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	for name, k := range c.Clusters {
		for key, file := range map[string]*string{"identity": &k.Identity, "known-hosts": &k.KnownHosts} {
			if *file, err = resolve(dir, *file); err != nil {
				return nil, at(path, text, []string{"cluster", name, key}, 0, err)
			}
		}
	}
	return c, nil
}

// decode reads a file as it is, whatever its values are.
func decode(path string, text []byte) (*Client, error) {
	c := &Client{}
	meta, err := toml.Decode(string(text), c)
	if err != nil {
		return nil, syntaxError(path, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, at(path, text, unknown[0], anyTable, fmt.Errorf("unknown key %q", unknown[0].String()))
	}
	return c, nil
}

// Find returns the cluster of that name, or the default one for "", and its name.
func (c *Client) Find(name string) (string, *Cluster, error) {
	asked := name
	if name == "" {
		name = c.Default
	}
	if name == "" && len(c.Clusters) == 1 {
		for only, k := range c.Clusters {
			return only, k, nil
		}
	}
	if k := c.Clusters[name]; k != nil {
		return name, k, nil
	}
	known := strings.Join(slices.Sorted(maps.Keys(c.Clusters)), ", ")
	if asked == "" {
		return "", nil, cluster.WithHint(
			fmt.Errorf("%w: the configuration has %d clusters and no default", ErrNoCluster, len(c.Clusters)),
			"name one in the address (cluster::NAME:repo) or set \"default\"; there are: "+known)
	}
	return "", nil, cluster.WithHint(fmt.Errorf("%w: %q", ErrNoCluster, asked), "the configuration has: "+known)
}

// Write checks c and writes it to path, whole or not at all, creating the
// directory if need be.
func (c *Client) Write(path string) error {
	var text bytes.Buffer
	enc := toml.NewEncoder(&text)
	enc.Indent = ""
	if err := enc.Encode(c); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := c.check(path, text.Bytes()); err != nil {
		return err
	}
	return writeFile(path, text.Bytes())
}

// check finds what the syntax cannot. text is for line numbers only.
func (c *Client) check(path string, text []byte) error {
	bad := func(index int, key []string, format string, a ...any) error {
		return at(path, text, key, index, fmt.Errorf(format, a...))
	}
	if len(c.Clusters) == 0 {
		return bad(0, nil, "it names no cluster: add [cluster.NAME] and a [[cluster.NAME.node]] for each node")
	}
	if c.Default != "" && c.Clusters[c.Default] == nil {
		return bad(0, []string{"default"}, "the default cluster %q has no [cluster.%s]", c.Default, c.Default)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Clusters)) {
		k := c.Clusters[name]
		table := []string{"cluster", name}
		if !isName(name) {
			return bad(0, table, "bad cluster name %q: use letters, digits and \". _ -\"", name)
		}
		if strings.HasPrefix(k.User, "-") || strings.ContainsFunc(k.User, unicode.IsControl) {
			return bad(0, append(table, "user"), "bad user %q", k.User)
		}
		if k.SyncWait != 0 && (k.SyncWait < time.Millisecond || k.SyncWait > time.Hour) {
			return bad(0, append(table, "sync-wait"), "bad sync-wait: use a time such as \"3s\", at most \"1h\"")
		}
		if len(k.Nodes) == 0 {
			return bad(0, table, "cluster %q has no node: add a [[cluster.%s.node]] with name and ssh", name, name)
		}
		seen := map[string]bool{}
		for i, n := range k.Nodes {
			if n.Name == "" || n.SSH == "" {
				return bad(i, append(table, "node"), "node %d of cluster %q lacks its name or ssh", i+1, name)
			}
			if !isName(n.Name) || seen[n.Name] {
				return bad(i, append(table, "node", "name"), "bad or repeated node name %q", n.Name)
			}
			seen[n.Name] = true
			if _, err := parseHostPort(n.SSH); err != nil {
				return bad(i, append(table, "node", "ssh"), "bad address of node %q: %w", n.Name, err)
			}
			if n.HostKey != "" {
				if _, err := n.Key(); err != nil {
					return bad(i, append(table, "node", "host-key"), "bad host key of node %q: use a line such as \"ssh-ed25519 AAAA…\"", n.Name)
				}
			}
		}
	}
	return nil
}

// Addr is the "host:port" to connect to, with SSH's port where the file names none.
func (n Node) Addr() string {
	addr, err := parseHostPort(n.SSH)
	if err != nil {
		return n.SSH
	}
	return addr
}

// HasPort reports whether the file names the port.
func (n Node) HasPort() bool {
	_, _, err := net.SplitHostPort(n.SSH)
	return err == nil
}

// Key parses the host key; nil where there is none.
func (n Node) Key() (ssh.PublicKey, error) {
	if n.HostKey == "" {
		return nil, nil
	}
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(n.HostKey))
	if err == nil && len(bytes.TrimSpace(rest)) > 0 {
		err = errors.New("more than one line")
	}
	return key, err
}
