package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const otherKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGm1f0SAUEnO8LbJAAVtGLZlCAyW7iZRoLLt0KzmHXyc"

func newCluster() *Cluster {
	return &Cluster{User: "bob", Nodes: []Node{{Name: "n1", SSH: "n1.example.org:2222", HostKey: testKey}, {Name: "n2", SSH: "n2.example.org:2222"}}}
}

func TestAdd(t *testing.T) {
	const commented = "# mine\n\n[cluster.old] # the first\n[[cluster.old.node]]\nname = \"a\" # alone\nssh = \"a\"\n"
	for name, c := range map[string]struct {
		text, cluster string
		asDefault     bool
		want          Addition
		finds         string // what "cluster::repo" means then
	}{
		"a new file":                 {"", "new", false, Addition{New: true, Nodes: []string{"n1", "n2"}, Default: ""}, "new"},
		"a table of nothing":         {"[cluster]\n", "new", false, Addition{New: true, Nodes: []string{"n1", "n2"}, Default: ""}, "new"},
		"comments alone":             {"# nothing yet", "new", false, Addition{New: true, Nodes: []string{"n1", "n2"}, Default: ""}, "new"},
		"a second cluster":           {commented, "new", false, Addition{New: true, Nodes: []string{"n1", "n2"}, Default: "old"}, "old"},
		"a second as default":        {commented, "new", true, Addition{New: true, Nodes: []string{"n1", "n2"}, Default: "new"}, "new"},
		"a dotted name":              {commented, "git.example.org", true, Addition{New: true, Nodes: []string{"n1", "n2"}, Default: "git.example.org"}, "git.example.org"},
		"another default":            {"default = \"old\" # why\n" + commented, "new", true, Addition{New: true, Nodes: []string{"n1", "n2"}, Default: "new"}, "new"},
		"the default stays":          {"default = \"old\" # why\n" + commented, "new", false, Addition{New: true, Nodes: []string{"n1", "n2"}, Default: ""}, "old"},
		"a node more":                {commented + "[cluster.new]\n[[cluster.new.node]]\nname = \"n2\"\nssh = \"n2.example.org:2222\"\n[cluster.third]\n[[cluster.third.node]]\nname=\"x\"\nssh=\"x\"", "new", false, Addition{New: false, Nodes: []string{"n1"}, Default: ""}, ""},
		"only as default":            {commented + "[cluster.new]\n[[cluster.new.node]]\nname = \"n2\"\nssh = \"n2.example.org:2222\"\n[[cluster.new.node]]\nname=\"n1\"\nssh=\"x\"", "new", true, Addition{New: false, Nodes: nil, Default: "new"}, "new"},
		"the default it is anyway":   {"[cluster.new]\n[[cluster.new.node]]\nname = \"n2\"\nssh = \"n2.example.org:2222\"\n[[cluster.new.node]]\nname=\"n1\"\nssh=\"x\"", "new", true, Addition{}, "new"},
		"windows' ends of its lines": {strings.ReplaceAll("default = \"old\"\n"+commented, "\n", "\r\n"), "new", true, Addition{New: true, Nodes: []string{"n1", "n2"}, Default: "new"}, "new"},
	} {
		path := write(t, c.text)
		if c.text == "" {
			path = filepath.Join(t.TempDir(), "deep", "client.toml")
		}
		got, err := Add(path, c.cluster, newCluster(), c.asDefault)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
			continue
		}
		conf, err := LoadClient(path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if finds, _, _ := conf.Find(""); finds != c.finds {
			t.Errorf("%s: the default is %q, want %q", name, finds, c.finds)
		}
		if k := conf.Clusters[c.cluster]; len(k.Nodes) != 2 {
			t.Errorf("%s: nodes %+v", name, k.Nodes)
		}
		text, _ := os.ReadFile(path)
		for line := range strings.Lines(c.text) {
			if !strings.Contains(line, "default") && !strings.Contains(string(text), line) {
				t.Errorf("%s: the line %q is gone:\n%s", name, line, text)
			}
			if _, comment, ok := strings.Cut(line, "#"); ok && !strings.Contains(string(text), "#"+comment) {
				t.Errorf("%s: the comment %q is gone:\n%s", name, comment, text)
			}
		}
		if again, err := Add(path, c.cluster, newCluster(), c.asDefault); err != nil || !reflect.DeepEqual(again, Addition{}) {
			t.Errorf("%s: a second time: %+v, %v", name, again, err)
		}
	}
}

// What an owner wrote of a node is not changed by what the cluster says of it.
func TestAddKeepsWhatIsThere(t *testing.T) {
	path := write(t, sample)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "client.toml")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	before, err := LoadClient(path)
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{User: "somebody", Nodes: []Node{{Name: "node1", SSH: "elsewhere:1", HostKey: testKey}, {Name: "node3", SSH: "three:1"}}}
	if _, err := Add(link, "demo", c, false); err != nil {
		t.Fatal(err)
	}
	after, err := LoadClient(path)
	if err != nil {
		t.Fatal(err)
	}
	before.Clusters["demo"].Nodes = append(before.Clusters["demo"].Nodes, Node{Name: "node3", SSH: "three:1"})
	if !reflect.DeepEqual(after, before) {
		t.Errorf("it is now %+v, want %+v", after.Clusters["demo"], before.Clusters["demo"])
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link became %v, %v", info, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode is %v, %v", info, err)
	}
}

// What is asked for again with a key more gets it; what is there already stays, and is
// told of.
func TestAddAKey(t *testing.T) {
	t.Setenv("HOME", "/home/bob")
	nodes := "[[cluster.new.node]]\nname = \"n1\"\nssh = \"n1.example.org:2222\"\n[[cluster.new.node]]\nname = \"n2\"\nssh = \"n2.example.org:2222\"\n"
	for name, c := range map[string]struct {
		text, region, identity string
		want                   Addition
		after                  string
	}{
		"none is there":    {"# mine\n[cluster.new] # its own\n" + nodes, "eu", "/k", Addition{Set: []string{"region", "identity"}}, "# mine\n[cluster.new] # its own\nregion = \"eu\"\nidentity = \"/k\"\n" + nodes},
		"no table is":      {nodes, "eu", "", Addition{Set: []string{"region"}}, nodes + "\n[cluster.new]\nregion = \"eu\"\n"},
		"the same":         {"[cluster.new]\nregion = \"eu\"\nidentity = \"~/k\"\n" + nodes, "eu", "/home/bob/k", Addition{}, ""},
		"others are there": {"[cluster.new]\nregion = \"us\"\nidentity = \"~/k\"\n" + nodes, "eu", "/k", Addition{Kept: []string{`region = "us"`, `identity = "~/k"`}}, ""},
		"nothing is asked": {"[cluster.new]\nregion = \"us\"\n" + nodes, "", "", Addition{}, ""},
		"one of two":       {"[cluster.new]\nregion = \"us\"\n" + nodes, "eu", "/k", Addition{Set: []string{"identity"}, Kept: []string{`region = "us"`}}, "[cluster.new]\nidentity = \"/k\"\nregion = \"us\"\n" + nodes},
		"windows' lines":   {"[cluster.new]\r\n" + nodes, "eu", "", Addition{Set: []string{"region"}}, "[cluster.new]\r\nregion = \"eu\"\n" + nodes},
	} {
		path := write(t, c.text)
		k := newCluster()
		k.Region, k.Identity = c.region, c.identity
		got, err := Add(path, "new", k, false)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
		if c.after == "" {
			c.after = c.text
		}
		if text, _ := os.ReadFile(path); string(text) != c.after {
			t.Errorf("%s: the file is\n%s\nwant\n%s", name, text, c.after)
		}
	}
}

func TestAddRefuses(t *testing.T) {
	inline := "[cluster]\nnew = { node = [ { name = \"a\", ssh = \"n1.example.org:2222\" } ] }\n"
	for name, text := range map[string]string{
		"inline tables": inline,
		"a bad file":    "default = \"x",
		"a bad default": "default = \"x\"\n[cluster.old]\n[[cluster.old.node]]\nname=\"a\"\nssh=\"a\"\n",
		"unknown keys":  "[clusters.x]\n",
	} {
		path := write(t, text)
		_, err := Add(path, "new", newCluster(), false)
		if err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v", name, err)
		}
		if manual := (*AddError)(nil); (text == inline) != errors.As(err, &manual) {
			t.Errorf("%s: error %#v", name, err)
		} else if manual != nil && !strings.Contains(manual.Text, "[[cluster.new.node]]\nname = \"n1\"") {
			t.Errorf("%s: what to add is %q", name, manual.Text)
		}
		if now, _ := os.ReadFile(path); string(now) != text {
			t.Errorf("%s: the file was changed to\n%s", name, now)
		}
	}
	for name, other := range map[string]*Cluster{
		"nothing in common": {Nodes: []Node{{Name: "n1", SSH: "n1:1", HostKey: otherKey}}},
		"another key":       {Nodes: []Node{{Name: "node1", SSH: "127.0.0.1:2201", HostKey: otherKey}}},
	} {
		path := write(t, sample)
		if got, err := Add(path, "demo", other, false); !errors.Is(err, ErrOtherCluster) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := Add(filepath.Join(t.TempDir(), "client.toml"), "-bad", newCluster(), false); err == nil {
		t.Error("a bad name was added")
	}
}
