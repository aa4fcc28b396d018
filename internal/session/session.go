// Package session describes one command run on a node over a byte-stream
// front: the built-in SSH server, or `git cluster shell` behind OpenSSH.
//
// Entry points: a front makes a [Session] and gives it to a [Handler]; the
// handler runs the command and returns its exit status.
//
// It promises that a Session's Identity was authenticated by the front, and
// that nothing in Env was not in [AllowedEnv].
package session

import (
	"context"
	"io"
	"net/netip"

	"gitcluster/internal/cluster"
)

// A Session is one command with its streams. Stdin reaches EOF when the client
// closes its half; Stdout and Stderr may be written until the handler returns.
type Session struct {
	Identity cluster.Identity
	Remote   netip.AddrPort // the client's address; the zero value for a Unix socket
	Command  string         // as the client sent it; "" for a shell or no command
	Env      map[string]string
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
}

// ServerVersion begins the line by which a node's SSH server introduces itself
// (RFC 4253, section 4.2).
const ServerVersion = "SSH-2.0-gitcluster_"

// CommandChannel is a type of SSH channel (RFC 4254, section 5.1) that a node's server
// knows beside "session": the request to open it has the command, and then names and
// values of its environment in turn, each a string of RFC 4251. So the command begins a
// round trip earlier.
const CommandChannel = "command@gitcluster"

// A Handler runs sessions. The context ends when the client goes away or the
// node stops; the handler must then return soon.
type Handler interface {
	ServeSession(ctx context.Context, s *Session) (exitStatus int)
}

// The environment variables a client may set. Everything else it sends is
// dropped: an SSH client can name any variable, and some (GIT_DIR, LD_PRELOAD)
// would hand it the node.
var AllowedEnv = map[string]bool{
	"GIT_PROTOCOL":         true, // Git's protocol version: "version=2"
	"GIT_CLUSTER_STALE_OK": true, // "1": read without synchronizing
	// The object format of the client's repository, "sha1" or "sha256": that of a
	// repository which its push creates.
	"GIT_CLUSTER_OBJECT_FORMAT": true,
}
