package localsocket

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPathShort(t *testing.T) {
	dir := t.TempDir()
	alias := filepath.Join(t.TempDir(), "alias")
	if err := os.Symlink(dir, alias); err != nil {
		t.Fatal(err)
	}
	real, err := Path(dir)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Base(real) != socketName {
		t.Errorf("socket %q", real)
	}
	if other, err := Path(alias); err != nil || other != real {
		t.Errorf("through a link: %q, %v; want %q", other, err, real)
	}
	if _, err := Path(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing directory: %v", err)
	}
}

// longDir makes a data directory whose socket does not fit, and a temporary
// directory for where it goes.
func longDir(t *testing.T) (dir, temp string) {
	t.Helper()
	temp, err := os.MkdirTemp("", "gc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(temp) })
	t.Setenv("TMPDIR", temp)
	dir = filepath.Join(temp, strings.Repeat("long/", 20))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir, temp
}

func TestPathLong(t *testing.T) {
	dir, temp := longDir(t)
	socket, err := Path(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(socket, temp) || len(socket) > maxPath {
		t.Fatalf("socket %q", socket)
	}
	if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrNoNode) {
		t.Errorf("nobody there: %v", err)
	}
	ln, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if info, err := os.Lstat(filepath.Dir(socket)); err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	conn, err := Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if other, err := Path(filepath.Dir(dir)); err != nil || other == socket {
		t.Errorf("two directories share the socket %q (%v)", other, err)
	}

	t.Setenv("TMPDIR", dir)
	if _, err := Path(dir); err == nil {
		t.Error("a temporary directory that is too long as well was used")
	}
}

func TestFolderOfSomebodyElse(t *testing.T) {
	for name, prepare := range map[string]func(folder string) error{
		"others may enter": func(folder string) error {
			if err := os.Mkdir(folder, 0o700); err != nil {
				return err
			}
			return os.Chmod(folder, 0o755)
		},
		"a link": func(folder string) error {
			if err := os.Mkdir(folder+"x", 0o700); err != nil {
				return err
			}
			return os.Symlink(folder+"x", folder)
		},
		"a file": func(folder string) error { return os.WriteFile(folder, nil, 0o600) },
		"another's": func(folder string) error {
			if os.Geteuid() != 0 {
				return errors.ErrUnsupported
			}
			if err := os.Mkdir(folder, 0o700); err != nil {
				return err
			}
			return os.Chown(folder, 65534, 65534)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := longDir(t)
			socket, err := Path(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := prepare(filepath.Dir(socket)); errors.Is(err, errors.ErrUnsupported) {
				t.Skip("only root can give a directory away")
			} else if err != nil {
				t.Fatal(err)
			}
			if ln, err := Listen(dir); err == nil {
				ln.Close()
				t.Error("the node used the directory")
			}
			if conn, err := Dial(t.Context(), dir); err == nil || errors.Is(err, ErrNoNode) {
				if conn != nil {
					conn.Close()
				}
				t.Errorf("a caller used the directory: %v", err)
			}
		})
	}
}

func TestListenReplacesLeftover(t *testing.T) {
	dir := t.TempDir()
	ln, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("while one listens: %v", err)
	}
	// As after SIGKILL: the file stays, nobody answers.
	ln.SetUnlinkOnClose(false)
	ln.Close()
	socket, err := Path(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(socket); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrNoNode) {
		t.Errorf("a leftover: %v", err)
	}
	again, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()

	if err := os.WriteFile(socket, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ln, err := Listen(dir); err == nil {
		ln.Close()
		t.Error("a file that is no socket was replaced")
	}
	if data, err := os.ReadFile(socket); err != nil || string(data) != "precious" {
		t.Errorf("the file is gone: %q, %v", data, err)
	}
}

func TestListenWantsItsOwnDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if ln, err := Listen(dir); err == nil {
		ln.Close()
		t.Error("a node listens in another account's directory")
	}
}
