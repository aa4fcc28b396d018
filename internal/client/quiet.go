package client

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// A quiet looks for [settings] where Git would, to learn that there are none, as most
// often, without a process that reads Git's configuration. It does not read what is set,
// which is Git's to say: whatever it is not sure of counts as something.
type quiet struct {
	getenv func(string) string
	system string // Git's own configuration of this machine
	files  int    // looked at
}

// settingWords are in the names of all settings but protocol.version, and not in what
// is set otherwise. A name has to be spelled out in a configuration, but for its case.
var settingWords = []string{"sshcommand", "askpass", "objectformat", "staleok", "variant"}

// Bounds on what is looked at. Git has none.
const (
	maxQuietFiles = 16
	maxQuietBytes = 256 << 10
	maxQuietVars  = 64
)

// nothingSet reports whether Git's configuration surely has none of the settings. Git
// runs us with its environment, and says there which repository it works on.
func nothingSet(getenv func(string) string) bool {
	q := &quiet{getenv: getenv, system: systemConfig(getenv)}
	return q.system != "" && q.variables() && q.everyFile()
}

// systemConfig is where Git has its configuration of this machine, which is built into
// it; "" for unknown. One that was built to be in /usr has it in /etc. Git tells where
// it is by what it has put first in PATH.
func systemConfig(getenv func(string) string) string {
	first, _, _ := strings.Cut(getenv("PATH"), string(filepath.ListSeparator))
	if runtime.GOOS != "linux" || first != cmp.Or(getenv("GIT_EXEC_PATH"), first) {
		return ""
	}
	switch first {
	case "/usr/lib/git-core", "/usr/libexec/git-core":
		return "/etc/gitconfig"
	}
	return ""
}

// variables looks at the configuration in the environment: that of "git -c", and that of
// git(1), GIT_CONFIG_COUNT.
func (q *quiet) variables() bool {
	if q.getenv("GIT_CONFIG") != "" || q.getenv("GIT_COMMON_DIR") != "" || mayName(q.getenv("GIT_CONFIG_PARAMETERS")) {
		return false
	}
	text := q.getenv("GIT_CONFIG_COUNT")
	if text == "" {
		return true
	}
	n, err := strconv.Atoi(text)
	if err != nil || n > maxQuietVars {
		return false
	}
	for i := range n {
		if mayName(q.getenv("GIT_CONFIG_KEY_" + strconv.Itoa(i))) {
			return false
		}
	}
	return true
}

// mayName reports whether a text that has the whole names of settings in it may have one
// of ours, or one that brings in more of them.
func mayName(text string) bool {
	text = strings.ToLower(text)
	return hasWord(text) || strings.Contains(text, "protocol.version") || strings.Contains(text, "include")
}

func hasWord(text string) bool {
	for _, word := range settingWords {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}

// everyFile looks at the files that Git reads (git-config(1), FILES), and where a variable
// names another in place of one, at both.
func (q *quiet) everyFile() bool {
	home := q.getenv("HOME")
	if !filepath.IsAbs(home) {
		return false
	}
	xdg := q.getenv("XDG_CONFIG_HOME")
	if xdg == "" {
		xdg = filepath.Join(home, ".config")
	}
	files := []string{q.system, filepath.Join(xdg, "git", "config"), filepath.Join(home, ".gitconfig"),
		q.getenv("GIT_CONFIG_SYSTEM"), q.getenv("GIT_CONFIG_GLOBAL")}
	if repository := q.getenv("GIT_DIR"); repository != "" {
		for _, elsewhere := range []string{"commondir", "config.worktree"} {
			if _, err := os.Lstat(filepath.Join(repository, elsewhere)); !errors.Is(err, fs.ErrNotExist) {
				return false
			}
		}
		files = append(files, filepath.Join(repository, "config"))
	}
	for _, file := range files {
		if file != "" && !q.file(file) {
			return false
		}
	}
	return true
}

// file looks at one file, and at those that it includes.
func (q *quiet) file(path string) bool {
	if path == os.DevNull {
		return true
	}
	q.files++
	if q.files > maxQuietFiles {
		return false // or it includes itself
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	// To read what is no file might take it away from Git.
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxQuietBytes {
		return false
	}
	text, err := os.ReadFile(path)
	return err == nil && q.text(string(text))
}

// text looks at a configuration. Only the include that is what `git config` writes, and
// whose path needs no interpretation, is followed.
func (q *quiet) text(text string) bool {
	if lower := strings.ToLower(text); hasWord(lower) || strings.Contains(lower, "[protocol]") {
		return false
	}
	including := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch lower := strings.ToLower(line); {
		case lower == "[include]":
			including = true
		case strings.Contains(lower, "[include"):
			return false
		case strings.HasPrefix(line, "["):
			including = false
		case including && line != "":
			key, value, _ := strings.Cut(line, "=")
			path := strings.TrimSpace(value)
			if strings.ToLower(strings.TrimSpace(key)) != "path" || !isPlainPath(path) {
				return false
			}
			if rest, below := strings.CutPrefix(path, "~"); below {
				path = q.getenv("HOME") + rest
			}
			if !q.file(path) {
				return false
			}
		}
	}
	return true
}

// isPlainPath reports whether a path is absolute, or below the account's home, and has
// nothing in it that Git might read in another way.
func isPlainPath(path string) bool {
	if !strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "~/") {
		return false
	}
	for _, c := range path[1:] {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("/._-", c)) {
			return false
		}
	}
	return true
}
