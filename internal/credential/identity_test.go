package credential

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"gitcluster/internal/cluster"
)

// enroll makes a device directory.
func enroll(t *testing.T, hosts ...string) (dir string, id *Identity) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "etc", "device")
	id, err := Prepare(dir, "repo001")
	if err != nil {
		t.Fatal(err)
	}
	id.ClusterID, id.Cluster, id.Hosts = testCluster, "demo", hosts
	if err := id.Save(dir); err != nil {
		t.Fatal(err)
	}
	return dir, id
}

func edit(t *testing.T, path, old, new string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), old, new, 1)
	if changed == string(text) {
		t.Fatalf("%s has no %q", path, old)
	}
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEnrolment(t *testing.T) {
	dir, id := enroll(t, "node1.example.com:2222")
	for name, mode := range map[string]fs.FileMode{".": 0o700, fileKey: 0o600, filePublic: 0o644, fileDevice: 0o644, "..": 0o755} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != mode {
			t.Errorf("%s has the mode %#o", name, got)
		}
	}
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "repo001" || got.ClusterID != testCluster || got.Cluster != "demo" || len(got.Hosts) != 1 || got.Fingerprint() != id.Fingerprint() {
		t.Errorf("loaded %+v", got)
	}
	if got.Signer() == nil || ssh.FingerprintSHA256(got.Signer().PublicKey()) != id.Fingerprint() {
		t.Error("the signer is not the key's")
	}
	if got.KeyFile() != filepath.Join(dir, "id_ed25519") {
		t.Errorf("the key's file is %q", got.KeyFile())
	}
	if line, err := os.ReadFile(filepath.Join(dir, filePublic)); err != nil || string(line) != got.AuthorizedKey()+" repo001\n" {
		t.Errorf("the public file is %q, %v", line, err)
	}
	if _, err := Verify(issue(t, got, "x"), "x", testCluster, now, registry(id)); err != nil {
		t.Error(err)
	}

	if _, err := Prepare(dir, "repo002"); !errors.Is(err, cluster.ErrExists) || cluster.Hint(err) == "" {
		t.Errorf("preparing a directory that is taken: %v", err)
	}
	got.Hosts = append(got.Hosts, "node2.example.com:2222")
	if err := got.Save(dir); err != nil {
		t.Errorf("saving once more: %v", err)
	}
	if again, err := Load(dir); err != nil || len(again.Hosts) != 2 {
		t.Errorf("loaded %+v, %v", again, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}

func TestInterruptedEnrolmentKeepsItsKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "device")
	first, err := Prepare(dir, "repo001")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); !errors.Is(err, ErrNoDevice) {
		t.Errorf("a key alone is a device: %v", err)
	}
	second, err := Prepare(dir, "repo001")
	if err != nil || second.Fingerprint() != first.Fingerprint() {
		t.Errorf("the second attempt has another key, %v", err)
	}
	if _, err := Prepare(dir, "../x"); err == nil {
		t.Error("a bad name is accepted")
	}
}

// A node has made its key itself.
func TestSaveBesideAKey(t *testing.T) {
	dir := t.TempDir()
	id := &Identity{Name: "repo001", ClusterID: testCluster, Cluster: "demo"}
	if err := id.Save(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a key: %v", err)
	}
	if err := createKey(dir, "repo001"); err != nil {
		t.Fatal(err)
	}
	if err := id.Save(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(dir); err != nil || got.Fingerprint() != id.Fingerprint() {
		t.Errorf("loaded %+v, %v", got, err)
	}
	if err := newIdentity(t).Save(dir); err == nil || !strings.Contains(err.Error(), "not that of the identity") {
		t.Errorf("beside another key: %v", err)
	}
	id.ClusterID = "a\nb"
	if err := id.Save(dir); err == nil {
		t.Error("a bad cluster id is saved")
	}
}

func TestLoadRefuses(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrNoDevice) || !strings.Contains(cluster.Hint(err), "git cluster device enroll") {
		t.Errorf("no directory: %v, hint %q", err, cluster.Hint(err))
	}
	writeKey := func(t *testing.T, dir string, block *pem.Block) {
		if err := os.WriteFile(filepath.Join(dir, fileKey), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		spoil     func(t *testing.T, dir string)
		why, hint string
	}{
		"a key others may read": {func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, fileKey), 0o640); err != nil {
				t.Fatal(err)
			}
		}, "may be used by others", "chmod 600"},
		"no key": {func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, fileKey)); err != nil {
				t.Fatal(err)
			}
		}, "no such file", ""},
		"a directory for a key": {func(t *testing.T, dir string) {
			path := filepath.Join(dir, fileKey)
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, "is not a file", ""},
		"no key in the file": {func(t *testing.T, dir string) { writeKey(t, dir, &pem.Block{Type: "X"}) }, fileKey, ""},
		"an encrypted key": {func(t *testing.T, dir string) {
			_, private, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			writeKey(t, dir, block)
		}, "is encrypted", "ssh-keygen -p"},
		"an unknown field": {func(t *testing.T, dir string) { edit(t, filepath.Join(dir, fileDevice), `"name"`, `"nome"`) }, "unknown field", ""},
		"two values":       {func(t *testing.T, dir string) { edit(t, filepath.Join(dir, fileDevice), "}\n", "}{}\n") }, "more than one", ""},
		"a bad name":       {func(t *testing.T, dir string) { edit(t, filepath.Join(dir, fileDevice), `repo001`, `..`) }, "bad device name", ""},
		"a bad host":       {func(t *testing.T, dir string) { edit(t, filepath.Join(dir, fileDevice), `node1`, `-node1`) }, "bad host", ""},
		"a bad cluster":    {func(t *testing.T, dir string) { edit(t, filepath.Join(dir, fileDevice), testCluster, `c 1`) }, "bad cluster id", ""},
		"a relative agent": {func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, fileDevice), `"hosts"`, `"agent": "x", "hosts"`)
		}, "absolute path", ""},
		"a very large device": {func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, fileDevice), "{", strings.Repeat(" ", maxFile)+"{")
		}, "longer than", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := enroll(t, "node1:22")
			c.spoil(t, dir)
			_, err := Load(dir)
			if err == nil || errors.Is(err, ErrNoDevice) || !strings.Contains(err.Error(), c.why) || !strings.Contains(cluster.Hint(err), c.hint) {
				t.Errorf("got %v (hint %q)", err, cluster.Hint(err))
			}
		})
	}
}

// serveAgent serves an SSH agent until the test ends.
func serveAgent(t *testing.T, a agent.Agent) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // a test's own directory may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		os.RemoveAll(dir)
	})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if a == nil {
					conn.Read(make([]byte, 1<<10)) // and never an answer
					<-t.Context().Done()
					return
				}
				agent.ServeAgent(a, conn)
			}()
		}
	}()
	return filepath.Join(dir, "s")
}

// liar is an agent that signs with another key than it is asked to.
type liar struct {
	agent.Agent
	ssh.Signer
}

func (l liar) Sign(_ ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return l.Signer.Sign(rand.Reader, data)
}

func TestKeyInAnAgent(t *testing.T) {
	dir, id := enroll(t, "node1:22")
	text, err := os.ReadFile(filepath.Join(dir, fileKey))
	if err != nil {
		t.Fatal(err)
	}
	private, err := ssh.ParseRawPrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	ring := agent.NewKeyring()
	id.Agent = serveAgent(t, ring)
	if err := id.Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, fileKey)); err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.KeyFile() != "" || got.Fingerprint() != id.Fingerprint() {
		t.Errorf("loaded %+v", got)
	}
	if _, _, err := Issue(t.Context(), got, "x", now); err == nil || cluster.Hint(err) == "" {
		t.Errorf("an agent without the key: %v", err)
	}
	if err := ring.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(issue(t, got, "x"), "x", testCluster, now, registry(id)); err != nil {
		t.Error(err)
	}

	got.Agent = serveAgent(t, liar{ring, newSigner(t)})
	if _, _, err := Issue(t.Context(), got, "x", now); err == nil || !strings.Contains(err.Error(), "is wrong") {
		t.Errorf("an agent that signs with another key: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, filePublic)); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("without a public key, an agent's key is loaded")
	}
}

func TestChoice(t *testing.T) {
	for value, want := range map[string]bool{"": false, "0": false, "1": true, "yes": true, "false": true} {
		env := func(key string) string { return map[string]string{EnvAsDevice: value, EnvCredential: "secret"}[key] }
		if AsDevice(env) != want {
			t.Errorf("%s=%q means %v", EnvAsDevice, value, !want)
		}
		err := Conflict(env, `the user "alice" of the address`)
		if (err != nil) != want {
			t.Errorf("%s=%q conflicts: %v", EnvAsDevice, value, err)
		}
		if err != nil && (!strings.Contains(err.Error(), EnvAsDevice) || !strings.Contains(err.Error(), EnvCredential) ||
			!strings.Contains(err.Error(), "alice") || strings.Contains(err.Error(), "secret")) {
			t.Errorf("the conflict is worded %q", err)
		}
	}
	alone := func(key string) string { return map[string]string{EnvAsDevice: "1"}[key] }
	if err := Conflict(alone); err != nil {
		t.Errorf("the device alone: %v", err)
	}
	if Dir(alone) != DefaultDir || Dir(func(string) string { return "/x" }) != "/x" {
		t.Error("the device directory is another")
	}
}
