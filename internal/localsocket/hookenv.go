package localsocket

import (
	"errors"
	"fmt"
	"strings"

	"gitcluster/internal/cluster"
)

// The variables by which a node tells the hooks of a push where it is.
const (
	EnvSocket = "GIT_CLUSTER_SOCKET" // the path of the node's socket
	EnvPush   = "GIT_CLUSTER_PUSH"   // the token of the push or fetch
)

// ErrOutsidePush: a hook was started by something else than a node's push.
var ErrOutsidePush = errors.New("this hook only runs inside a push that a node started")

// HookFromEnv makes a hook's request out of the arguments and the environment that Git
// gave it, and says on which socket to make it.
func HookFromEnv(name string, args, environ []string) (req HookRequest, socket string, err error) {
	req = HookRequest{Hook: name, Env: make(map[string]string)}
	if name == PackObjects {
		req.Args = args
	}
	for _, entry := range environ {
		name, value, ok := strings.Cut(entry, "=")
		switch {
		case !ok:
		case name == EnvSocket:
			socket = value
		case name == EnvPush:
			req.Push = value
		case isHookEnv(name) && req.Args == nil:
			req.Env[name] = value
		}
	}
	if !isHook(name) {
		return HookRequest{}, "", fmt.Errorf("unknown hook %.20q", name)
	}
	if !isToken(req.Push) || !isSocketPath(socket) {
		return HookRequest{}, "", cluster.WithHint(ErrOutsidePush,
			"push to the repository through its node instead of its directory")
	}
	return req, socket, nil
}
