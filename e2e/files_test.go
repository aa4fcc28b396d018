package e2e

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// writeFile writes a file and the folders above it.
func writeFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// swap exchanges two files or folders.
func swap(t testing.TB, a, b string) {
	t.Helper()
	tmp := a + ".swap"
	for _, move := range [][2]string{{a, tmp}, {b, a}, {tmp, b}} {
		if err := os.Rename(move[0], move[1]); err != nil {
			t.Fatal(err)
		}
	}
}

func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}
