package client

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gitcluster/internal/config"
	"gitcluster/internal/credential"
	"gitcluster/internal/replica"
	"gitcluster/internal/sshclient"
)

// A machine that is no device hears how to become one, whatever host it asks for;
// a device learns of hosts from Git's configuration, too.
func TestIdentifyAsDevice(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, "device")
	t.Setenv(config.EnvClient, filepath.Join(home, "none.toml"))
	vars := map[string]string{credential.EnvAsDevice: "1", credential.EnvDir: dir, "HOME": home, "PATH": os.Getenv("PATH"), "XDG_CONFIG_HOME": filepath.Join(home, "xdg")}
	try := func(host string) (sshclient.Options, error) {
		var o sshclient.Options
		err := identify(t.Context(), replica.Candidate{Addr: host + ":2222"}, func(name string) string { return vars[name] }, &o)
		return o, err
	}
	var final *finalError
	_, err := try("h.example")
	if !errors.As(err, &final) || !errors.Is(final.err, credential.ErrNoDevice) {
		t.Errorf("no device: %v", err)
	}
	id, err := credential.Prepare(dir, "ci7")
	if err != nil {
		t.Fatal(err)
	}
	id.ClusterID, id.Cluster, id.Hosts = "0123456789abcdef", "test", []string{"node.example:2222"}
	if err := id.Save(dir); err != nil {
		t.Fatal(err)
	}
	if o, err := try("node.example"); err != nil || o.IdentityFile != id.KeyFile() {
		t.Errorf("a host of the enrolment: %q, %v", o.IdentityFile, err)
	}
	if _, err := try("h.example"); !errors.As(err, &final) || !strings.Contains(final.err.Error(), "not for h.example") {
		t.Errorf("another host: %v", err)
	}
	// A node that joined later, by the word of one of the enrolment.
	learned := replica.Candidate{Addr: "new.example:2222", Cluster: id.ClusterID, Vouchers: []string{"gone.example:2222", "node.example:2222"}}
	for what, c := range map[string]struct {
		edit func(c *replica.Candidate, o *sshclient.Options)
		ours bool
	}{
		"of the cluster":                  {func(*replica.Candidate, *sshclient.Options) {}, true},
		"of another":                      {func(c *replica.Candidate, _ *sshclient.Options) { c.Cluster = "fedcba9876543210" }, false},
		"by a stranger's word":            {func(c *replica.Candidate, _ *sshclient.Options) { c.Vouchers = []string{"h.example:2222"} }, false},
		"by nobody's":                     {func(c *replica.Candidate, _ *sshclient.Options) { c.Vouchers = nil }, false},
		"whose host key nobody has named": {func(_ *replica.Candidate, o *sshclient.Options) { o.HostKey = nil }, false},
		"not learned":                     {func(c *replica.Candidate, _ *sshclient.Options) { c.Cluster = "" }, false},
	} {
		candidate, o := learned, sshclient.Options{HostKey: id.PublicKey()} // any key
		c.edit(&candidate, &o)
		err := identify(t.Context(), candidate, func(name string) string { return vars[name] }, &o)
		if got := err == nil && o.IdentityFile == id.KeyFile(); got != c.ours || !c.ours && (o.IdentityFile != "" || o.Signers != nil) {
			t.Errorf("a node %s: %q, %v", what, o.IdentityFile, err)
		}
	}
	configuration := "[credential \"https://h.example\"]\n\thelper = device\n"
	if err := os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	if o, err := try("h.example"); err != nil || o.IdentityFile != id.KeyFile() {
		t.Errorf("a host of Git's configuration: %q, %v", o.IdentityFile, err)
	}
}
