package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/BurntSushi/toml"

	"gitcluster/internal/cluster"
	"gitcluster/internal/durable"
)

// maxFile keeps a wrong path, such as a device or a log, from filling memory.
const maxFile = 1 << 20

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: it is longer than %d bytes, so it is no configuration", path, maxFile)
	}
	return text, err
}

// writeFile replaces the file, in a directory that it makes. Nothing in it is
// secret, and the file in /etc is for all users.
func writeFile(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(path, text, 0o644)
}

// syntaxError puts the decoder's error into this package's form.
func syntaxError(path string, err error) error {
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("%s: line %d: %s", path, parse.Position.Line, parse.Message)
	}
	return fmt.Errorf("%s: %s", path, strings.TrimPrefix(err.Error(), "toml: "))
}

// at adds the file and the line of a key to err. index tells apart the tables of
// an array, [[…]]; anyTable is for a key that is wrong in all of them.
func at(path string, text []byte, key []string, index int, err error) error {
	if n := lineOf(text, key, index); n > 0 {
		return fmt.Errorf("%s: line %d: %w", path, n, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

const anyTable = -1

// lineOf returns the line that sets key or opens its table, or 0. The decoder
// tells no positions of keys it has accepted. This is a reader of headers and
// "key =" lines only, which is enough for a line number in a message.
func lineOf(text []byte, key []string, index int) int {
	if len(key) == 0 {
		return 0
	}
	var table []string
	arrays := map[string]int{} // how often each [[…]] has been opened
	current := 0               // which table of the innermost array we are in
	number := 0
	for line := range bytes.Lines(text) {
		number++
		s := strings.TrimSpace(string(line))
		var full []string
		switch {
		case strings.HasPrefix(s, "[["):
			inner, _, _ := strings.Cut(s[2:], "]]")
			table = splitKey(inner)
			current = arrays[strings.Join(table, "\x00")]
			arrays[strings.Join(table, "\x00")]++
			full = table
		case strings.HasPrefix(s, "["):
			inner, _, _ := strings.Cut(s[1:], "]")
			table, current = splitKey(inner), 0
			full = table
		default:
			name, _, ok := strings.Cut(s, "=")
			if !ok || strings.HasPrefix(s, "#") {
				continue
			}
			full = append(slices.Clone(table), splitKey(name)...)
		}
		if len(full) >= len(key) && slices.Equal(full[:len(key)], key) && (index == anyTable || index == current) {
			return number
		}
	}
	return 0
}

func splitKey(s string) (parts []string) {
	for part := range strings.SplitSeq(s, ".") {
		parts = append(parts, strings.Trim(strings.TrimSpace(part), `"'`))
	}
	return parts
}

// resolve turns a file name of the configuration into an absolute one.
func resolve(dir, file string) (string, error) {
	switch {
	case file == "":
		return "", nil
	case file == "~" || strings.HasPrefix(file, "~/"):
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("%q needs a home directory: %w", file, err)
		}
		return filepath.Join(home, file[1:]), nil
	case strings.HasPrefix(file, "~"):
		return "", fmt.Errorf("%q: only ~/ of the own account is understood", file)
	case filepath.IsAbs(file):
		return filepath.Clean(file), nil
	}
	return filepath.Join(dir, file), nil
}

// parseHostPort checks "host", "host:port" or "[IPv6]:port" and adds SSH's port
// where there is none.
func parseHostPort(s string) (string, error) {
	host, port := strings.Trim(s, "[]"), "22"
	if strings.Contains(s, "]:") || strings.Count(s, ":") == 1 {
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return "", fmt.Errorf("%q: use host:port", s)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%q: the port must be 1 to 65535", s)
	}
	// A host that begins with "-" would be an option to ssh(1), in whose
	// command lines people paste these addresses.
	if host == "" || host[0] == '-' || strings.ContainsFunc(host, func(r rune) bool {
		return unicode.IsControl(r) || strings.ContainsRune(" /@,[]'\"$`\\;&|<>()", r)
	}) {
		return "", fmt.Errorf("%q: use host:port", s)
	}
	return net.JoinHostPort(host, port), nil
}

func isName(s string) bool {
	_, err := cluster.ParseDeviceName(s) // nodes are devices; clusters are named alike
	return err == nil
}
