package credential

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The signature is OpenSSH's: its own program checks it.
func TestSSHKeygenAcceptsAToken(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("there is no ssh-keygen")
	}
	id := newIdentity(t)
	message, signature, err := Armor(issue(t, id, "git.example.com"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	verify := func(namespace, allowed string, message []byte) (string, error) {
		cmd := exec.CommandContext(t.Context(), keygen, "-Y", "verify", "-f", write("allowed", []byte(allowed)),
			"-I", "device/repo001", "-n", namespace, "-s", write("token.sig", signature))
		cmd.Stdin = bytes.NewReader(message)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	allowed := `device/repo001 namespaces="` + namespace + `" ` + id.AuthorizedKey() + "\n"
	if out, err := verify(namespace, allowed, message); err != nil || !strings.Contains(out, "Good \""+namespace+"\" signature for device/repo001") {
		t.Errorf("ssh-keygen: %v: %s", err, out)
	}
	if out, err := verify("git", strings.Replace(allowed, namespace, "git", 1), message); err == nil {
		t.Errorf("ssh-keygen accepts it for another namespace: %s", out)
	}
	if out, err := verify(namespace, allowed, append(message, ' ')); err == nil {
		t.Errorf("ssh-keygen accepts it for another message: %s", out)
	}
	if out, err := verify(namespace, `device/repo001 `+newIdentity(t).AuthorizedKey()+"\n", message); err == nil {
		t.Errorf("ssh-keygen accepts it for another key: %s", out)
	}
	if _, _, err := Armor("x"); !errors.Is(err, ErrToken) {
		t.Errorf("armor of what is no token: %v", err)
	}
}

// And a signature that ssh-keygen makes is one to us.
func TestVerifyAcceptsASignatureOfSSHKeygen(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("there is no ssh-keygen")
	}
	dir := filepath.Join(t.TempDir(), "device")
	id, err := Prepare(dir, "repo001")
	if err != nil {
		t.Fatal(err)
	}
	id.ClusterID = testCluster
	token := issue(t, id, "git.example.com")
	message, ours, err := Armor(token)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), keygen, "-Y", "sign", "-f", id.KeyFile(), "-n", namespace)
	cmd.Stdin = bytes.NewReader(message)
	theirs, err := cmd.Output()
	if err != nil {
		t.Fatalf("ssh-keygen: %v", err)
	}
	unwrap := func(armored []byte) string { return strings.Join(strings.Fields(string(armored)), "") }
	if unwrap(theirs) != unwrap(ours) { // Ed25519 signs the same text in one way only
		t.Errorf("ssh-keygen signs\n%s\nand we\n%s", theirs, ours)
	}
}
