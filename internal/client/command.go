package client

import (
	"context"
	"strconv"
	"strings"

	"gitcluster/internal/remotehelper"
)

// settings is what Git's configuration says to the helper.
type settings struct {
	protocol int    // protocol.version
	staleOK  bool   // cluster.staleOk
	format   string // extensions.objectFormat of the repository Git works in

	sshCommand string // core.sshCommand
	sshVariant string // ssh.variant
	askPass    string // core.askPass
}

// defaultSettings is what holds where Git's configuration says nothing.
var defaultSettings = settings{protocol: 2}

// settingsPattern matches the keys of settings, as `git config` spells them.
const settingsPattern = `^(protocol\.version|cluster\.staleok|extensions\.objectformat|core\.(sshcommand|askpass)|ssh\.variant)$`

// readSettings asks Git. Where it cannot be asked the defaults hold, which are
// the safe ones.
func readSettings(ctx context.Context, gitConfig func(context.Context, ...string) ([]byte, error)) settings {
	s := defaultSettings
	out, err := gitConfig(ctx, "--null", "--get-regexp", settingsPattern)
	if err != nil {
		return s // status 1 only means that neither is set
	}
	for entry := range strings.SplitSeq(string(out), "\x00") {
		key, value, hasValue := strings.Cut(entry, "\n")
		switch key {
		case "protocol.version":
			if n, err := strconv.Atoi(value); err == nil && n >= 0 && n <= 2 {
				s.protocol = n
			}
		case "extensions.objectformat":
			if value == "sha1" || value == "sha256" {
				s.format = value
			}
		case "core.sshcommand":
			s.sshCommand = value
		case "core.askpass":
			s.askPass = value
		case "ssh.variant":
			s.sshVariant = value
		case "cluster.staleok":
			s.staleOK = !hasValue || isTrue(value)
		}
	}
	return s
}

// isTrue reads a boolean as Git does.
func isTrue(value string) bool {
	switch strings.ToLower(value) {
	case "true", "yes", "on":
		return true
	}
	n, err := strconv.Atoi(value)
	return err == nil && n != 0
}

// command is the line the server's shell gets, as ssh:// would send it. The
// service path is the user's own --upload-pack, which is a piece of shell by
// Git's definition.
func (r *request) command() string {
	program := string(r.service)
	if r.options.ServicePath != "" {
		program = r.options.ServicePath
	}
	return program + " " + shellQuote(r.path)
}

func (r *request) environment() map[string]string {
	env := map[string]string{}
	// Git asks for version 2 where there is one: for fetches.
	if r.protocol == 1 && r.service.SpeaksFirst() || r.protocol == 2 && r.service == remotehelper.UploadPack {
		env["GIT_PROTOCOL"] = "version=" + strconv.Itoa(r.protocol)
	}
	if r.staleOK {
		env["GIT_CLUSTER_STALE_OK"] = "1"
	}
	if r.format == "sha256" && !r.service.ReadsOnly() {
		env["GIT_CLUSTER_OBJECT_FORMAT"] = r.format // sha1 is what a node assumes
	}
	return env
}

// shellQuote makes one word for a POSIX shell. "!" is treated like the quote
// since csh expands it inside quotes.
func shellQuote(s string) string {
	var b strings.Builder
	b.WriteByte('\'')
	for _, c := range []byte(s) {
		if c == '\'' || c == '!' {
			b.WriteString(`'\` + string(c) + `'`)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteByte('\'')
	return b.String()
}
