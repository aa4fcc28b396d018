package localsocket

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// asNobody calls f on a thread that has another account's identity. Only root
// can do that.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can act as another account")
	}
	const nobody = 65534
	keep := ^uintptr(0)
	done := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it ends with the goroutine, and with it
		// the identity.
		runtime.LockOSThread()
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, nobody, keep); errno != 0 {
			done <- errno
			return
		}
		f()
		done <- nil
	}()
	if err := recv(t, done, "the other account"); err != nil {
		t.Fatal(err)
	}
}

// letIn opens a test's directory, which only we can enter, to everybody.
func letIn(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can act as another account")
	}
	for dir, mode := range map[string]os.FileMode{dir: 0o777, filepath.Dir(dir): 0o755} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStrangersAreRefused(t *testing.T) {
	f := start(t, &Server{Sessions: sessionFunc(echo)})
	// Even if the modes let them through.
	if err := os.Chmod(f.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	letIn(t, f.dir)
	var answer []byte
	var err error
	asNobody(t, func() {
		var conn net.Conn
		if conn, err = net.Dial("unix", f.socket); err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, operatorLine)
		answer, err = io.ReadAll(conn)
	})
	if len(answer) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a stranger got %q, %v", answer, err)
	}
	waitFor(t, "the refusal in the log", func() (string, bool) {
		log := f.log.String()
		return log, strings.Contains(log, "uid=65534")
	})
}

func TestImpostorIsRefused(t *testing.T) {
	dir := t.TempDir()
	letIn(t, dir)
	socket, err := Path(dir)
	if err != nil {
		t.Fatal(err)
	}
	var ln net.Listener
	asNobody(t, func() { ln, err = net.Listen("unix", socket) })
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if conn, err := Dial(t.Context(), dir); err == nil {
		conn.Close()
		t.Error("a caller talks to another account's socket")
	}
}
