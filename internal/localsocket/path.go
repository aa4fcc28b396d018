package localsocket

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gitcluster/internal/cluster"
)

const (
	socketName = "node.sock"
	// maxPath is what fits into a socket address everywhere: 104 bytes on macOS,
	// 108 on Linux.
	maxPath = 100
)

var (
	// ErrInUse: a node answers on the socket already.
	ErrInUse = errors.New("a node is already running")
	// ErrNoNode: nothing answers on the socket.
	ErrNoNode = errors.New("no node is running")
)

// Path returns the socket of the node whose data directory is dir: a file in
// it, or, where that path would be too long for a socket, in a directory of the
// same owner below [os.TempDir]. It creates nothing.
func Path(dir string) (string, error) {
	where, err := locate(dir)
	return where.socket, err
}

// A location says where a node's socket is and whose it must be.
type location struct {
	socket string
	owner  int    // of the data directory
	folder string // of the socket, if outside the data directory
}

func locate(dir string) (location, error) {
	// The node and its callers may know the directory by different names.
	real, err := filepath.Abs(dir)
	if err == nil {
		real, err = filepath.EvalSymlinks(real)
	}
	if err != nil {
		return location{}, fmt.Errorf("data directory: %w", err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return location{}, fmt.Errorf("data directory: %w", err)
	}
	owner, ok := ownerOf(info)
	if !ok || !info.IsDir() {
		return location{}, fmt.Errorf("data directory %q is not a directory with an owner", dir)
	}
	where := location{socket: filepath.Join(real, socketName), owner: owner}
	if len(where.socket) <= maxPath {
		return where, nil
	}
	sum := sha256.Sum256([]byte(real))
	where.folder = filepath.Join(os.TempDir(), fmt.Sprintf("git-cluster-%d-%x", owner, sum[:8]))
	where.socket = filepath.Join(where.folder, socketName)
	if len(where.socket) > maxPath {
		return location{}, cluster.WithHint(
			fmt.Errorf("the data directory's path and %q are both too long for a socket", os.TempDir()),
			"set TMPDIR to a shorter directory, for the node and its callers alike")
	}
	return where, nil
}

// Listen opens the socket of the node whose data directory is dir, replacing
// one that a killed node left. The caller makes sure that it is the directory's
// only node: between two that start at once this does not decide.
func Listen(dir string) (*net.UnixListener, error) {
	where, err := locate(dir)
	if err != nil {
		return nil, err
	}
	if where.owner != os.Geteuid() {
		// Its callers, who go by the owner, would not talk to us.
		return nil, cluster.WithHint(
			fmt.Errorf("data directory %q belongs to the account %d, this is %d", dir, where.owner, os.Geteuid()),
			"run the node as the account that owns its data directory")
	}
	if where.folder != "" {
		if err := os.Mkdir(where.folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("socket: %w", err)
		}
		if err := where.checkFolder(); err != nil {
			return nil, err
		}
	}
	if err := removeLeftover(where.socket); err != nil {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: where.socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	// Until here the umask decides; who slips in is sent away by the check of
	// the peer's account.
	if err := os.Chmod(where.socket, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("socket: %w", err)
	}
	return ln, nil
}

// Dial connects to the node whose data directory is dir.
func Dial(ctx context.Context, dir string) (net.Conn, error) {
	where, err := locate(dir)
	if err != nil {
		return nil, err
	}
	if where.folder != "" {
		if err := where.checkFolder(); errors.Is(err, fs.ErrNotExist) {
			return nil, noNode(where.socket, err)
		} else if err != nil {
			return nil, err
		}
	}
	return dialSocket(ctx, where.socket, where.owner)
}

// dialSocket connects to a socket whose node must run as the given account, as
// our own, or as root.
func dialSocket(ctx context.Context, socket string, owner int) (*net.UnixConn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil, noNode(socket, err)
		}
		return nil, fmt.Errorf("socket %q: %w", socket, err)
	}
	conn := nc.(*net.UnixConn)
	uid, err := peerUID(conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("socket %q: %w", socket, err)
	}
	// Somebody else's socket could collect what we send and answer as it likes.
	if uid != 0 && uid != os.Geteuid() && uid != owner {
		conn.Close()
		return nil, fmt.Errorf("socket %q is served by the account %d, which is not the node's", socket, uid)
	}
	return conn, nil
}

func noNode(socket string, err error) error {
	return cluster.WithHint(fmt.Errorf("%w on %q: %w", ErrNoNode, socket, errors.Unwrap(err)),
		"start it with: git cluster serve")
}

// checkFolder makes sure that nobody else controls a folder in the temporary
// directory, where anybody can create one, or a symbolic link, before we do.
func (l location) checkFolder() error {
	info, err := os.Lstat(l.folder)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	owner, ok := ownerOf(info)
	if !ok || !info.IsDir() || owner != l.owner || info.Mode().Perm()&0o077 != 0 {
		return cluster.WithHint(
			fmt.Errorf("socket: %q is not a directory that only the account %d can enter", l.folder, l.owner),
			"somebody may have put it there; have it removed, or set TMPDIR to a directory of your own")
	}
	return nil
}

// removeLeftover removes a socket that nobody listens on.
func removeLeftover(socket string) error {
	info, err := os.Lstat(socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("socket: %q is there already and is no socket", socket)
	}
	conn, err := net.DialTimeout("unix", socket, time.Second)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("%w on %q", ErrInUse, socket)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, syscall.ECONNREFUSED):
		// Full backlog, no permission: somebody may be there.
		return fmt.Errorf("%w, it seems, on %q: %w", ErrInUse, socket, err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("socket: %w", err)
	}
	return nil
}

// isSocketPath reports whether a path that came from the environment can name
// a socket at all.
func isSocketPath(s string) bool {
	return filepath.IsAbs(s) && len(s) <= maxPath && !strings.ContainsRune(s, 0)
}
