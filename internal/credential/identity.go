package credential

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
	"gitcluster/internal/durable"
)

// EnvDir names the device directory, if it is not DefaultDir.
const (
	EnvDir     = "GIT_CLUSTER_DEVICE_DIR"
	DefaultDir = "/etc/git-cluster/device"
)

// The files of a device directory. A key becomes an identity with fileDevice,
// which is therefore written last.
const (
	fileKey    = "id_ed25519"     // OpenSSH private key, mode 0600
	filePublic = "id_ed25519.pub" // its authorized_keys line
	fileDevice = "device.json"    // the rest of the Identity
)

// ErrNoDevice: this machine has no identity of its own.
var ErrNoDevice = errors.New("this machine is no device of a cluster")

const enrolHint = "enrol it with: git cluster device enroll SEED --token T --name N"

// An Identity is this machine as a device of one cluster.
type Identity struct {
	Name      cluster.DeviceName `json:"name"`
	ClusterID string             `json:"cluster_id"`
	Cluster   string             `json:"cluster"` // its name, for people
	// Hosts are the nodes ("host:port") this identity may be shown to.
	Hosts []string `json:"hosts"`
	// Agent is the socket of an SSH agent that holds the key. The directory
	// then has the public key only.
	Agent string `json:"agent,omitempty"`

	dir    string
	public ssh.PublicKey
	signer ssh.Signer // nil with Agent
}

// Dir returns the device directory.
func Dir(getenv func(string) string) string {
	if dir := getenv(EnvDir); dir != "" {
		return dir
	}
	return DefaultDir
}

// Load reads the identity in dir and its key. The error is ErrNoDevice where
// there is none, and another where there is one that cannot be used.
func Load(dir string) (*Identity, error) {
	id, err := read(dir)
	if err != nil {
		return nil, err
	}
	if err := id.loadKey(); err != nil {
		return nil, err
	}
	return id, nil
}

// Prepare makes dir and a new key in it, for a device of that name that is
// about to be enrolled. The key is on disk before anybody is told of it; if an
// enrolment fails after that, the next one takes up the same key. A directory that
// has an identity already is left alone: cluster.ErrExists.
func Prepare(dir string, name cluster.DeviceName) (*Identity, error) {
	if _, err := cluster.ParseDeviceName(string(name)); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	// What is above it is not private: /etc/git-cluster holds everybody's
	// client.toml as well.
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	switch old, err := read(dir); {
	case err == nil:
		return nil, cluster.WithHint(fmt.Errorf("%s holds the identity of device %q of cluster %q: %w", dir, old.Name, old.Cluster, cluster.ErrExists),
			"name another directory in $"+EnvDir+", or remove that one if the device is gone")
	case !errors.Is(err, ErrNoDevice):
		return nil, err
	}
	id := &Identity{Name: name, dir: dir}
	err = id.loadKey()
	if errors.Is(err, fs.ErrNotExist) {
		if err := createKey(dir, string(name)); err != nil {
			return nil, err
		}
		err = id.loadKey()
	}
	if err != nil {
		return nil, err
	}
	return id, nil
}

// Save writes the identity beside its key, which dir must hold already: from
// Prepare, or put there by a node. With that, this machine is a device.
func (id *Identity) Save(dir string) error {
	if err := id.check(); err != nil {
		return err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	saved := *id
	saved.dir = dir
	if err := saved.loadKey(); err != nil {
		return err
	}
	// An identity whose key is another one than its cluster was told of would
	// be refused everywhere, without a hint at the reason.
	if id.public != nil && !bytes.Equal(id.public.Marshal(), saved.public.Marshal()) {
		return fmt.Errorf("the key in %s is %s and not that of the identity, %s", dir, saved.Fingerprint(), id.Fingerprint())
	}
	text, err := json.MarshalIndent(id, "", "\t")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, fileDevice), append(text, '\n'), 0o644); err != nil {
		return err
	}
	*id = saved
	return nil
}

// PublicKey returns the device's public key.
func (id *Identity) PublicKey() ssh.PublicKey { return id.public }

// Signer returns the device's key, to connect with from this process; nil if an
// agent holds it.
func (id *Identity) Signer() ssh.Signer { return id.signer }

// AuthorizedKey returns the public key as the cluster keeps it: one line,
// "ssh-ed25519 AAAA…".
func (id *Identity) AuthorizedKey() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(id.public)))
}

// Fingerprint returns the public key's, "SHA256:…".
func (id *Identity) Fingerprint() string { return ssh.FingerprintSHA256(id.public) }

// KeyFile returns the absolute path of the private key, or "" if an agent holds it.
func (id *Identity) KeyFile() string {
	if id.Agent != "" {
		return ""
	}
	return filepath.Join(id.dir, fileKey)
}

// maxFile is far above any real device file. It keeps a wrong path, such as a
// disk, from filling memory.
const maxFile = 64 << 10

// maxHosts is far above the nodes of a cluster.
const maxHosts = 4096

// read reads the identity without its key, which an account that may not use it
// needs to know whether it is meant at all.
func read(dir string) (*Identity, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, fileDevice)
	text, _, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, cluster.WithHint(fmt.Errorf("%w: there is no %s", ErrNoDevice, path), enrolHint)
	}
	if err != nil {
		return nil, err
	}
	id := &Identity{dir: dir}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(id); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: there is more than one value", path)
	}
	if err := id.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return id, nil
}

func (id *Identity) check() error {
	if _, err := cluster.ParseDeviceName(string(id.Name)); err != nil {
		return err
	}
	if !isClusterID(id.ClusterID) {
		return fmt.Errorf("bad cluster id %q", clip(id.ClusterID))
	}
	// The name is shown to people, so it must not act on a terminal.
	if !isPrintable(id.Cluster) || len(id.Cluster) > 255 {
		return fmt.Errorf("bad cluster name %q", clip(id.Cluster))
	}
	if len(id.Hosts) > maxHosts {
		return fmt.Errorf("%d hosts are more than %d", len(id.Hosts), maxHosts)
	}
	for _, h := range id.Hosts {
		if _, err := Audience(h); err != nil {
			return err
		}
	}
	// A relative path would name another socket in every directory.
	if id.Agent != "" && (!filepath.IsAbs(id.Agent) || !isPrintable(id.Agent)) {
		return fmt.Errorf("the agent's socket %q is not an absolute path", clip(id.Agent))
	}
	return nil
}

// isClusterID accepts what is safe in a token and in a message. The id of a
// cluster is random letters and digits.
func isClusterID(s string) bool {
	_, err := cluster.ParseDeviceName(s)
	return err == nil
}

func isPrintable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// clip keeps a stranger's text from filling a terminal or a log.
func clip(s string) string {
	if len(s) > 80 {
		return s[:77] + "..."
	}
	return s
}
