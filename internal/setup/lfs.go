package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/durable"
)

// LFSFile is the file, beside the client's, that Git's configuration has to
// include.
const LFSFile = "lfs.gitconfig"

// CheckLFS checks the address of an LFS server.
func CheckLFS(endpoint string) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return cluster.WithHint(errors.New("that is no address of an LFS server"), "use https://host/path")
	case u.User != nil:
		return cluster.WithHint(errors.New("the LFS server's address holds a user or a password"), "leave them to Git's credential helpers")
	case strings.ContainsAny(endpoint, "\"\\\n\r#;"):
		return errors.New("the LFS server's address has a character that does not belong there")
	}
	return nil
}

// WriteLFS makes endpoint the LFS server of a cluster's repositories, or, with
// "", leaves it as it was, and writes [LFSFile] in dir. Its text depends on which
// clusters there are: git-lfs asks one server for everything that its
// configuration covers, and only where there is a single cluster does
// "cluster::repo" belong to it for certain. bare reports whether that form is covered.
//
// git-lfs understands no cluster:: address, but takes a server from Git's
// configuration, and Git can make that depend on a repository's remotes.
func WriteLFS(dir, name, endpoint string, clusters []string) (path string, bare bool, err error) {
	path = filepath.Join(dir, LFSFile)
	own := func(name string) string { return filepath.Join(dir, "lfs-"+name+".gitconfig") }
	if endpoint != "" {
		if err := CheckLFS(endpoint); err != nil {
			return path, false, err
		}
		text := fmt.Sprintf("# Large files of the cluster %q.\n[lfs]\n\turl = %s\n", name, endpoint)
		if err := durable.WriteFile(own(name), []byte(text), 0o644); err != nil {
			return path, false, err
		}
	}
	var b strings.Builder
	b.WriteString("# Written by `git cluster use`: it replaces what you change here.\n")
	found := false
	for _, name := range slices.Sorted(slices.Values(clusters)) {
		if _, err := os.Stat(own(name)); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return path, false, err
		}
		found = true
		patterns := []string{name + ":*", name + ":*/**"}
		if len(clusters) == 1 {
			patterns, bare = []string{"*", "*/**"}, true
		}
		for _, p := range patterns {
			fmt.Fprintf(&b, "[includeIf \"hasconfig:remote.*.url:cluster::%s\"]\n\tpath = lfs-%s.gitconfig\n", p, name)
		}
	}
	if !found {
		return "", false, nil
	}
	return path, bare, durable.WriteFile(path, []byte(b.String()), 0o644)
}
