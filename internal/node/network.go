package node

import (
	"cmp"
	"path/filepath"

	"gitcluster/internal/config"
	"gitcluster/internal/credential"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/observe"
)

// network is how this node reaches the remotes of mirrors: by the variables that
// curl, Git and the client read, which its service manager may set. Nothing
// else of the node's environment reaches them.
func (d dataDir) network(getenv func(string) string) observe.Network {
	either := func(name, lower string) string { return cmp.Or(getenv(name), getenv(lower)) }
	device := getenv(credential.EnvDir)
	if device == "" {
		device = d.path("device") // what a node is to its own cluster
	}
	n := observe.Network{
		// Of HTTP_PROXY curl reads the lower-case form only.
		Proxy:        gitcmd.Proxy{HTTPSProxy: either("HTTPS_PROXY", "https_proxy"), HTTPProxy: getenv("http_proxy"), NoProxy: either("NO_PROXY", "no_proxy")},
		CAInfo:       getenv("GIT_SSL_CAINFO"),
		DeviceDir:    device,
		ClientConfig: getenv(config.EnvClient),
	}
	for _, path := range []*string{&n.CAInfo, &n.DeviceDir, &n.ClientConfig} {
		if *path == "" {
			continue
		}
		if absolute, err := filepath.Abs(*path); err == nil {
			*path = absolute
		}
	}
	return n
}
