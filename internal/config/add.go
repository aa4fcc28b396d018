package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"gitcluster/internal/durable"
)

// An Addition is what [Add] put into a client's file.
type Addition struct {
	New     bool     // the cluster was not there before
	Nodes   []string // names of the nodes that were added
	Default string   // the default that was set; "" if it is as it was
	Set     []string // keys that the cluster had not: region, identity
	Kept    []string // what it has instead of what was asked for, as it stands: `region = "eu"`
}

// An AddError is a file that could not be extended, and what to put there by
// hand.
type AddError struct {
	Path string
	Text string // lines of TOML
	Err  error
}

func (e *AddError) Error() string { return e.Path + ": " + e.Err.Error() }
func (e *AddError) Unwrap() error { return e.Err }

// Add puts a cluster, or those of its nodes that are missing, into the client's
// file at path, which need not exist. All that is there stays as it was written,
// comments included: what the file says of a node is its owner's will, and so is the
// region and the identity that it names. The cluster becomes the default one if asDefault is set; otherwise "cluster::repo"
// goes on to mean what it meant.
func Add(path, name string, c *Cluster, asDefault bool) (Addition, error) {
	var added Addition
	// A file that is a link, into somebody's repository of such files, stays one.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	mode := fs.FileMode(0o644)
	text, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return added, err
	default:
		info, err := os.Stat(path)
		if err != nil {
			return added, err
		}
		mode = info.Mode().Perm()
	}
	want, err := decode(path, text)
	if err != nil {
		return added, err
	}
	if len(want.Clusters) == 0 {
		want.Clusters = map[string]*Cluster{} // the start of a new file
	} else if err := want.check(path, text); err != nil {
		return added, err
	}

	var more, keys strings.Builder
	known := want.Clusters[name]
	if known == nil {
		added.New = true
		known = new(Cluster)
		*known = *c
		known.Nodes = nil
		if len(want.Clusters) == 1 && want.Default == "" && !asDefault {
			// With two there is no only one any more.
			added.Default = slices.Collect(maps.Keys(want.Clusters))[0]
		}
		want.Clusters[name] = known
		fmt.Fprintf(&more, "\n[cluster.%s]\n%s", tableName(name), lines(known))
	}
	if !added.New {
		if err := sameCluster(name, known, c); err != nil {
			return Addition{}, err
		}
		added.setKeys(known, c, filepath.Dir(path), &keys)
	}
	for _, n := range c.Nodes {
		if slices.ContainsFunc(known.Nodes, func(old Node) bool { return old.Name == n.Name }) {
			continue
		}
		known.Nodes = append(known.Nodes, n)
		added.Nodes = append(added.Nodes, n.Name)
		fmt.Fprintf(&more, "\n[[cluster.%s.node]]\n%s", tableName(name), lines(n))
	}
	if now, _, err := want.Find(""); asDefault && (err != nil || now != name) {
		added.Default = name
	}
	if added.Default != "" {
		want.Default = added.Default
	}
	if !added.New && len(added.Nodes) == 0 && added.Default == "" && keys.Len() == 0 {
		return added, nil
	}

	edited := text
	byHand := more.String()
	if keys.Len() > 0 {
		byHand = fmt.Sprintf("[cluster.%s]\n%s", tableName(name), keys.String()) + byHand
		if inTable, ok := afterHeader(text, []string{"cluster", name}, keys.String()); ok {
			edited = inTable
		} else {
			fmt.Fprintf(&more, "\n[cluster.%s]\n%s", tableName(name), keys.String())
		}
	}
	if added.Default != "" {
		edited = setDefault(edited, added.Default)
	}
	if len(edited) > 0 && !bytes.HasSuffix(edited, []byte("\n")) {
		edited = append(edited, '\n')
	}
	edited = append(edited, more.String()...)
	edited = bytes.TrimPrefix(edited, []byte("\n"))
	if err := want.check(path, edited); err != nil {
		return Addition{}, err
	}
	// There are files to which lines cannot just be added, such as one whose
	// nodes stand in an inline array.
	if got, err := decode(path, edited); err != nil || !reflect.DeepEqual(got, want) {
		return Addition{}, &AddError{Path: path, Text: strings.TrimSpace(byHand), Err: errors.New("nothing can be added to it without rewriting it")}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return Addition{}, err
	}
	if err := durable.WriteFile(path, edited, mode); err != nil {
		return Addition{}, &AddError{Path: path, Text: strings.TrimSpace(byHand), Err: fmt.Errorf("cannot be written: %w", err)}
	}
	return added, nil
}

// setKeys adds the keys of a cluster that are asked for and missing.
func (a *Addition) setKeys(known, c *Cluster, dir string, lines *strings.Builder) {
	for _, key := range []struct {
		name      string
		has, asks string
		to        *string
	}{{"region", known.Region, c.Region, &known.Region}, {"identity", known.Identity, c.Identity, &known.Identity}} {
		switch file, _ := resolve(dir, key.has); {
		case key.asks == "" || key.has == key.asks || key.name == "identity" && file == key.asks:
		case key.has != "":
			a.Kept = append(a.Kept, fmt.Sprintf("%s = %q", key.name, key.has))
		default:
			*key.to = key.asks
			a.Set = append(a.Set, key.name)
			fmt.Fprintf(lines, "%s = %q\n", key.name, key.asks)
		}
	}
}

// afterHeader puts lines behind the one that opens a table, if there is one.
func afterHeader(text []byte, table []string, lines string) (edited []byte, ok bool) {
	for line := range bytes.Lines(text) {
		edited = append(edited, line...)
		s := strings.TrimSpace(string(line))
		inner, _, closed := strings.Cut(strings.TrimPrefix(s, "["), "]")
		if ok || !closed || !strings.HasPrefix(s, "[") || strings.HasPrefix(s, "[[") || !slices.Equal(splitKey(inner), table) {
			continue
		}
		if !bytes.HasSuffix(line, []byte("\n")) {
			edited = append(edited, '\n')
		}
		edited, ok = append(edited, lines...), true
	}
	return edited, ok
}

// ErrOtherCluster: what is to be added is not of the cluster that has the name.
var ErrOtherCluster = errors.New("another cluster has that name")

// sameCluster finds out whether c is the cluster that the file has under a
// name. A name alone does not say so: most clusters are called "main".
func sameCluster(name string, known, c *Cluster) error {
	met := false
	for _, old := range known.Nodes {
		for _, n := range c.Nodes {
			if old.Name == n.Name && old.HostKey != "" && n.HostKey != "" && !sameKey(old, n) {
				return fmt.Errorf("%w: node %q of %q has another host key in the configuration", ErrOtherCluster, n.Name, name)
			}
			met = met || old.Addr() == n.Addr() || old.HostKey != "" && sameKey(old, n)
		}
	}
	if !met {
		return fmt.Errorf("%w: none of the nodes is one that the configuration has for %q", ErrOtherCluster, name)
	}
	return nil
}

func sameKey(a, b Node) bool {
	keyA, errA := a.Key()
	keyB, errB := b.Key()
	return errA == nil && errB == nil && keyA != nil && keyB != nil && bytes.Equal(keyA.Marshal(), keyB.Marshal())
}

// lines are the keys of one table.
func lines(table any) string {
	var b bytes.Buffer
	enc := toml.NewEncoder(&b)
	enc.Indent = ""
	if err := enc.Encode(table); err != nil {
		return "" // what was not written is found to be missing
	}
	return b.String()
}

// setDefault replaces the line that sets the default cluster, or puts one
// first, where no table has begun.
func setDefault(text []byte, name string) []byte {
	line := fmt.Sprintf("default = %q\n", name)
	number := lineOf(text, []string{"default"}, 0)
	if number == 0 {
		if len(text) > 0 {
			line += "\n"
		}
		return append([]byte(line), text...)
	}
	var out []byte
	for old := range bytes.Lines(text) {
		if number--; number == 0 {
			if _, comment, ok := bytes.Cut(old, []byte("#")); ok {
				line = fmt.Sprintf("default = %q  #%s", name, comment)
			}
			old = []byte(line)
		}
		out = append(out, old...)
	}
	return out
}

// tableName is a cluster's name as a part of a table's.
func tableName(name string) string {
	if strings.Contains(name, ".") {
		return fmt.Sprintf("%q", name)
	}
	return name
}
