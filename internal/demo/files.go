package demo

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/config"
)

// makeIdentity makes the key of the demo's user.
func (d *demo) makeIdentity() error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "demo")
	if err != nil {
		return err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path("identity"), pem.EncodeToMemory(block), 0o600); err != nil {
		return err
	}
	return os.WriteFile(d.path("identity.pub"), ssh.MarshalAuthorizedKey(key), 0o644)
}

// environment is what the demo's own commands run in: that of env.sh, with a
// Git identity and without anybody's Git configuration.
func (d *demo) environment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "GIT_") && !strings.HasPrefix(v, "PATH=") && !strings.HasPrefix(v, "NOTIFY_SOCKET=") {
			env = append(env, v)
		}
	}
	return append(env,
		"PATH="+filepath.Dir(d.self)+string(os.PathListSeparator)+os.Getenv("PATH"),
		config.EnvClient+"="+d.path("client.toml"),
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Demo", "GIT_AUTHOR_EMAIL=demo@example.com", "GIT_COMMITTER_NAME=Demo", "GIT_COMMITTER_EMAIL=demo@example.com")
}

// writeFiles leaves what a script needs to use the cluster; token is the user's.
func (d *demo) writeFiles(token string) error {
	c := &config.Cluster{User: "git", Identity: d.path("identity")}
	var sshConfig, known bytes.Buffer
	for _, n := range d.nodes {
		public, err := os.ReadFile(filepath.Join(n.Data, "device", "id_ed25519.pub"))
		if err != nil {
			return err
		}
		key := strings.Join(strings.Fields(string(public))[:2], " ")
		c.Nodes = append(c.Nodes, config.Node{Name: n.Name, SSH: n.SSH, HostKey: key})
		host, port, err := net.SplitHostPort(n.SSH)
		if err != nil {
			return err
		}
		fmt.Fprintf(&known, "%s %s\n", n.Name, key)
		fmt.Fprintf(&sshConfig, "Host %s\n  HostName %s\n  Port %s\n  HostKeyAlias %s\n\n", n.Name, host, port, n.Name)
	}
	fmt.Fprintf(&sshConfig, "Host *\n  User git\n  IdentityFile %q\n  IdentitiesOnly yes\n  IdentityAgent none\n  BatchMode yes\n  UserKnownHostsFile %q\n  GlobalKnownHostsFile /dev/null\n",
		d.path("identity"), d.path("known_hosts"))
	env := fmt.Sprintf("# Source this file to use the demo's cluster.\nexport PATH=%s:\"$PATH\"\nexport %s=%s\n",
		shellQuote(filepath.Dir(d.self)), config.EnvClient, shellQuote(d.path("client.toml")))
	web, err := d.writeWeb(token)
	if err != nil {
		return err
	}
	env += web
	// Commits need a name, too; the person's own is left alone.
	env += `if ! git config user.email >/dev/null 2>&1; then
	export GIT_AUTHOR_NAME=Demo GIT_AUTHOR_EMAIL=demo@example.com
	export GIT_COMMITTER_NAME=Demo GIT_COMMITTER_EMAIL=demo@example.com
fi
`
	for name, text := range map[string]string{"env.sh": env, "ssh_config": sshConfig.String(), "known_hosts": known.String()} {
		if err := os.WriteFile(d.path(name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	file := &config.Client{Default: "demo", Clusters: map[string]*config.Cluster{"demo": c}}
	if err := file.Write(d.path("client.toml")); err != nil {
		return err
	}
	return d.writeNodes()
}

// writeWeb writes what Git needs for the nodes' HTTPS addresses, and returns the
// lines of env.sh that tell it. They are for these addresses alone; the person's own
// settings stay.
func (d *demo) writeWeb(token string) (env string, err error) {
	var passwords, trusted bytes.Buffer
	var settings [][2]string
	for _, n := range d.nodes {
		certificate, err := os.ReadFile(filepath.Join(n.Data, "http", "cert.pem"))
		if err != nil {
			return "", err
		}
		trusted.Write(certificate)
		fmt.Fprintf(&passwords, "https://%s:%s@%s\n", user, token, n.HTTP)
		settings = append(settings,
			[2]string{"http.https://" + n.HTTP + "/.sslCAInfo", d.path("certificates.pem")},
			[2]string{"credential.https://" + n.HTTP + ".helper", "store --file=" + shellQuote(d.path("credentials"))})
	}
	env = fmt.Sprintf("export GIT_CONFIG_COUNT=%d\n", len(settings))
	for i, s := range settings {
		env += fmt.Sprintf("export GIT_CONFIG_KEY_%d=%s GIT_CONFIG_VALUE_%d=%s\n", i, shellQuote(s[0]), i, shellQuote(s[1]))
	}
	return env, errors.Join(
		os.WriteFile(d.path("token"), []byte(token+"\n"), 0o600),
		os.WriteFile(d.path("credentials"), passwords.Bytes(), 0o600),
		os.WriteFile(d.path("certificates.pem"), trusted.Bytes(), 0o644))
}

// writeNodes writes nodes.json, which holds the process ids.
func (d *demo) writeNodes() error {
	data, err := json.MarshalIndent(d.nodes, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(d.path("nodes.json"), append(data, '\n'), 0o644)
}

func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
