package credential

import (
	"strings"
	"testing"
)

func TestAudience(t *testing.T) {
	for in, want := range map[string]string{
		"git.example.com": "git.example.com", "GIT.Example.COM.": "git.example.com", "git.example.com:8443": "git.example.com",
		"localhost": "localhost", "127.0.0.1:22": "127.0.0.1", "[::1]:8443": "::1", "[::1]": "::1", "::1": "::1",
		"0:0:0:0:0:0:0:1": "::1", "FE80::1%eth0": "fe80::1", "::ffff:10.0.0.1": "10.0.0.1", "my_host": "my_host", "a-b.c": "a-b.c",
		"xn--bcher-kva.example": "xn--bcher-kva.example",
	} {
		got, err := Audience(in)
		if got != want || err != nil {
			t.Errorf("audience of %q is %q, %v", in, got, err)
		}
		if again, err := Audience(got); again != got || err != nil {
			t.Errorf("audience of %q is %q, %v", got, again, err)
		}
	}
	for _, bad := range []string{
		"", ":", ":22", "a:b", "a:65536", "a:1:2", "[a]", "[a]:22", "[::1", "a/b", "a b", "a\nb", "-a", "a.-b", "a..b", ".a", ".", "a@b", "a..",
		"*.example.com", "bücher.example", "a\x00b", strings.Repeat("a.", 127) + "abc", "[::1]x", "[::1]:x", "1.2.3.4%eth0",
	} {
		if got, err := Audience(bad); err == nil {
			t.Errorf("audience of %q is %q", bad, got)
		}
	}
}
