package address

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

func TestParse(t *testing.T) {
	host := func(name string, port uint16) []Host { return []Host{{name, port}} }
	for text, want := range map[string]Address{
		"cluster::a":                        {Path: "a"},
		"a":                                 {Path: "a"},
		"cluster::demo/hello.git":           {Path: "demo/hello"},
		"cluster::/demo/hello/":             {Path: "demo/hello"},
		"cluster::demo:team/x":              {Cluster: "demo", Path: "team/x"},
		"cluster::alice@demo:x":             {Cluster: "demo", User: "alice", Path: "x"},
		"alice@x":                           {User: "alice", Path: "x"},
		"cluster://h/x":                     {Hosts: host("h", 0), Path: "/x"},
		"cluster::cluster://h/x":            {Hosts: host("h", 0), Path: "/x"},
		"cluster://h:2201/srv/git/x.git":    {Hosts: host("h", 2201), Path: "/srv/git/x.git"},
		"cluster://h/~user/x":               {Hosts: host("h", 0), Path: "~user/x"},
		"cluster://h/a%20b/x%2Fy":           {Hosts: host("h", 0), Path: "/a b/x/y"},
		"cluster://git@[::1]:22/x":          {Hosts: host("::1", 22), User: "git", Path: "/x"},
		"cluster://[fe80::1%25eth0]/x":      {Hosts: host("fe80::1%eth0", 0), Path: "/x"},
		"cluster://dom%5Cbob@h.example./x":  {Hosts: host("h.example.", 0), User: `dom\bob`, Path: "/x"},
		"cluster://a,b:2202,[::1]:3/team/x": {Hosts: []Host{{"a", 0}, {"b", 2202}, {"::1", 3}}, Path: "/team/x"},
		"cluster://h/x@y":                   {Hosts: host("h", 0), Path: "/x@y"},
	} {
		got, err := Parse(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", text, got, err, want)
			continue
		}
		if again, err := Parse(got.String()); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("Parse(%q), which String gave for %q, = %+v, %v", got.String(), text, again, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, part := range map[string]string{
		"cluster::":                       "empty",
		"cluster::../x":                   `part ".."`,
		"cluster::-x":                     `starts with "-"`,
		"cluster:::x":                     "cluster's name is empty",
		"cluster::demo:":                  "empty",
		"cluster::de mo:x":                "character ' '",
		"cluster::-demo:x":                "character '-'",
		"cluster::@x":                     "user",
		"cluster::-oProxy@x":              `begins with "-"`,
		"cluster::ssh://h/x":              "another kind of URL",
		"cluster::a\nb":                   "control byte 0x0a",
		"cluster::a\x1b[2J":               "control byte 0x1b",
		"cluster://h":                     "no repository",
		"cluster://h/":                    "no repository",
		"cluster:///x":                    "host is empty",
		"cluster://a,,b/x":                "host is empty",
		"cluster://-oProxyCommand=id/x":   `begins with "-"`,
		"cluster://h,-oX/x":               `begins with "-"`,
		"cluster://h:0/x":                 "bad port",
		"cluster://h:65536/x":             "bad port",
		"cluster://h:/x":                  "bad port",
		"cluster://h:+22/x":               "bad port",
		"cluster://::1/x":                 "two colons",
		"cluster://[::1/x":                "closing bracket",
		"cluster://[::1]x/x":              "after its bracket",
		"cluster://[1.2.3.4]/x":           "not an IPv6",
		"cluster://[fe80::1%25-e]/x":      "not an IPv6",
		"cluster://h$(id)/x":              "character",
		"cluster://h/x%0Ay":               "control byte 0x0a",
		"cluster://h/x%zz":                "percent escape",
		"cluster://%2Doid@h/x":            `begins with "-"`,
		"cluster://a%40corp@h/x":          "the user has",
		"cluster://u%0A@h/x":              "control byte",
		"cluster://bob:hunter2@h/x":       "password",
		"cluster://bob:hunt/er2@h/x":      "bad port",
		"cluster::bob:hunter2@x":          "password",
		strings.Repeat("x", maxAddress+1): "longer than",
		"cluster://h" + strings.Repeat(",h", maxHosts) + "/x": "more than 64 hosts",
	} {
		a, err := Parse(text)
		if err == nil {
			t.Errorf("Parse(%.60q) = %+v, want an error", text, a)
			continue
		}
		if !errors.Is(err, ErrBadAddress) || !strings.Contains(err.Error(), part) {
			t.Errorf("Parse(%.60q): %v, want one with %q", text, err, part)
		}
		if strings.Contains(err.Error(), "hunt") {
			t.Errorf("Parse(%.60q): the error repeats the password: %v", text, err)
		}
		if cluster.Hint(err) == "" || len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("Parse(%.60q): bad error %q, hint %q", text, err, cluster.Hint(err))
		}
	}
}

func TestFromArgs(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"cluster::a", "a"}, "cluster::a"},
		{[]string{"origin", "demo:a"}, "cluster::demo:a"},
		{[]string{"origin", "cluster://h/a"}, "cluster://h/a"},
		{[]string{"hello", "hello"}, "cluster::hello"},
		{[]string{"hello"}, "cluster::hello"},
	} {
		a, err := FromArgs(c.args)
		if err != nil || a.String() != c.want {
			t.Errorf("FromArgs(%q) = %v, %v; want %s", c.args, a, err, c.want)
		}
	}
	for _, args := range [][]string{nil, {"a", "b", "c"}} {
		if a, err := FromArgs(args); err == nil {
			t.Errorf("FromArgs(%q) = %v, want an error", args, a)
		}
	}
}

func TestHostDial(t *testing.T) {
	for text, want := range map[string]string{"h": "h:22", "h:2": "h:2", "[::1]": "[::1]:22", "[::1]:9": "[::1]:9"} {
		h, err := ParseHost(text)
		if err != nil || h.Dial() != want || h.String() != text {
			t.Errorf("ParseHost(%q) = %v, dial %s, %v", text, h, h.Dial(), err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"cluster::a", "cluster::n:a/b", "cluster::u@n:a", "cluster://h/a", "cluster://u@h:22,[::1]:3/~a",
		"cluster://[fe80::1%25eth0]/x%20y", "cluster::\x00", "cluster://a%40b@h/x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Parse(s)
		if err != nil {
			if !errors.Is(err, ErrBadAddress) {
				t.Fatalf("%q: %v is not ErrBadAddress", s, err)
			}
			return
		}
		for _, part := range append([]string{a.Cluster, a.User, a.Path}, hostNames(a)...) {
			if strings.HasPrefix(part, "-") {
				t.Fatalf("%q: the part %q could be taken for an option", s, part)
			}
			if err := checkText(part); err != nil {
				t.Fatalf("%q: the part %q: %v", s, part, err)
			}
		}
		if a.Path == "" || (a.Hosts == nil) == strings.HasPrefix(s, "cluster://") {
			t.Fatalf("%q: parsed as %+v", s, a)
		}
		again, err := Parse(a.String())
		if err != nil || !reflect.DeepEqual(again, a) {
			t.Fatalf("%q: String gave %q, which parses as %+v, %v; want %+v", s, a.String(), again, err, a)
		}
	})
}

func hostNames(a Address) (names []string) {
	for _, h := range a.Hosts {
		names = append(names, h.Name)
	}
	return names
}
