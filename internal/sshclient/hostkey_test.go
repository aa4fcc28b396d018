package sshclient

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"gitcluster/internal/cluster"
	"gitcluster/internal/sshclient/sshtest"
)

// known starts a server and gives options that check it by the text of a file.
func known(t *testing.T, o sshtest.Options) (*sshtest.Server, Options, func(text string)) {
	t.Helper()
	dir := home(t)
	o.Handler = echo
	s := sshtest.Start(t, o)
	file := filepath.Join(dir, "known")
	opts := options(s)
	opts.HostKey, opts.KnownHosts, opts.GlobalKnownHosts = nil, []string{file}, []string{}
	return s, opts, func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func line(key ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) }

func TestHostKeys(t *testing.T) {
	s, o, write := known(t, sshtest.Options{})
	_, port, _ := net.SplitHostPort(s.Addr)
	right, other := line(s.Host.PublicKey()), line(sshtest.NewKey(t).PublicKey())
	name := knownhosts.Normalize(s.Addr)
	for what, c := range map[string]struct {
		text string
		want error // nil for a server that is accepted
		says string
	}{
		"known":            {name + " " + right, nil, ""},
		"hashed":           {knownhosts.HashHostname(name) + " " + right, nil, ""},
		"without its port": {"127.0.0.1 " + right, nil, ""},
		"pattern":          {"[127.*]:" + port + " " + right, nil, ""},
		"one of two":       {name + " " + other + "\n" + name + " " + right, nil, ""},
		"odd lines":        {"rubbish\n" + name + " ssh-new AAAA\n|1|x " + right + "\n[x " + right + "\n" + strings.Repeat("y", 70000) + "\n" + name + " " + right, nil, ""},
		"changed":          {"# x\n" + name + " " + other, ErrHostKeyChanged, "known line 2 has ssh-ed25519 SHA256:"},
		"changed, hashed":  {knownhosts.HashHostname(name) + " " + other, ErrHostKeyChanged, "known line 1 has"},
		"odd and changed":  {"rubbish\n" + name + " " + other, ErrHostKeyChanged, "known line 2 has"},
		"other kind":       {name + " " + line(rsaKey(t)), ErrHostKeyChanged, "the server has " + shownKey(s.Host.PublicKey()) + ", but " + o.KnownHosts[0] + " line 1 has ssh-rsa SHA256:"},
		"a kind besides":   {name + " " + line(rsaKey(t)) + "\n" + name + " " + right, nil, ""},
		"other port":       {"[127.0.0.1]:1 " + right, ErrHostKeyUnknown, ""},
		"other, no port":   {"127.0.0.1 " + other, ErrHostKeyUnknown, ""},
		"revoked":          {name + " " + right + "\n@revoked * " + right, ErrHostKeyRevoked, "known line 2 revokes it"},
		"revoked, odd":     {name + " " + right + "\n@revoked * ssh-new AAAA", nil, "known line 2 revokes a key that cannot be read"},
		"an authority's":   {"@cert-authority * " + other, ErrHostKeyUnknown, ""},
		"nothing":          {"", ErrHostKeyUnknown, ""},
	} {
		write(c.text + "\n")
		conn, err := Dial(t.Context(), o)
		if conn != nil {
			conn.Close()
		}
		if hint := cluster.Hint(err); errors.Is(err, ErrHostKeyChanged) && !strings.Contains(hint, "ssh-keygen -f "+o.KnownHosts[0]+" -R '"+name+"'") {
			t.Errorf("%s: hint %q", what, hint)
		}
		ok := err == nil && c.want == nil && c.says == ""
		if !ok && (err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || cluster.Hint(err) == "") {
			t.Errorf("%s: %v (hint %q); want %v, %q", what, err, cluster.Hint(err), c.want, c.says)
		}
	}

	// What a person has to compare is all there.
	write(name + " " + other)
	_, err := Dial(t.Context(), o)
	file := o.KnownHosts[0]
	wrong, _, _, _, _ := ssh.ParseAuthorizedKey([]byte(other))
	for _, part := range []string{ssh.FingerprintSHA256(s.Host.PublicKey()), ssh.FingerprintSHA256(wrong), file + " line 1"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("changed: %v; want %q", err, part)
		}
	}
	if want := "ssh-keygen -f " + file + " -R '" + name + "'"; !strings.Contains(cluster.Hint(err), want) {
		t.Errorf("changed: hint %q; want %q", cluster.Hint(err), want)
	}
	// A key that the configuration names need not be known, but may be revoked.
	pinned := o
	pinned.HostKey = rsaKey(t)
	if _, err := Dial(t.Context(), pinned); !errors.Is(err, ErrHostKeyChanged) || !strings.Contains(cluster.Hint(err), "put it into the configuration") {
		t.Errorf("a pinned one of another kind: %v (hint %q)", err, cluster.Hint(err))
	}
	pinned.HostKey = s.Host.PublicKey()
	write("@revoked * " + right)
	dial(t, pinned)
	pinned.Revocable = true
	if _, err := Dial(t.Context(), pinned); !errors.Is(err, ErrHostKeyRevoked) {
		t.Errorf("pinned and revoked: %v", err)
	}
	write(name + " " + other)
	dial(t, pinned)
	// An alias stands for a host at any port.
	o.HostKeyAlias = "Alias"
	write("")
	if _, err := Dial(t.Context(), o); !strings.Contains(cluster.Hint(err), file+": Alias "+right) {
		t.Errorf("an alias nobody knows: %v (hint %q)", err, cluster.Hint(err))
	}
	write("alias " + right)
	dial(t, o)
	write(name + " " + right)
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrHostKeyUnknown) {
		t.Errorf("by its address instead of its alias: %v", err)
	}
}

func rsaKey(t *testing.T) ssh.PublicKey { return rsaSigner(t).PublicKey() }

func rsaSigner(t *testing.T) ssh.Signer {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// A server that signs with SHA-1 only has the key that is known; ssh may take it.
func TestOldSignatures(t *testing.T) {
	key := rsaSigner(t)
	old, err := ssh.NewSignerWithAlgorithms(key.(ssh.AlgorithmSigner), []string{ssh.KeyAlgoRSA})
	if err != nil {
		t.Fatal(err)
	}
	s, o, write := known(t, sshtest.Options{Host: old})
	write(knownhosts.Normalize(s.Addr) + " " + line(key.PublicKey()) + "\n")
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrUnsupported) || errors.Is(err, ErrHostKeyChanged) {
		t.Error(err)
	}
}

func keygen(t *testing.T, args ...string) {
	t.Helper()
	program, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("there is no ssh-keygen on this machine")
	}
	if out, err := exec.Command(program, append([]string{"-q"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen %q: %v\n%s", args, err, out)
	}
}

// An authority vouches for a host by a certificate.
func TestHostCertificates(t *testing.T) {
	authority, host := sshtest.NewKey(t), sshtest.NewKey(t)
	certificate := func(name string, by ssh.Signer) ssh.Signer {
		c := &ssh.Certificate{Key: host.PublicKey(), CertType: ssh.HostCert, ValidPrincipals: []string{name}, ValidBefore: ssh.CertTimeInfinity}
		if err := c.SignCert(bytes.NewReader(make([]byte, 1000)), by); err != nil {
			t.Fatal(err)
		}
		signer, err := ssh.NewCertSigner(c, host)
		if err != nil {
			t.Fatal(err)
		}
		return signer
	}
	trusted := "@cert-authority [127.0.0.1]:* " + line(authority.PublicKey()) + "\n@cert-authority 127.0.0.* " + line(authority.PublicKey())
	rsaKeyPair := rsaSigner(t)
	rsaTrusted := strings.ReplaceAll(trusted, line(authority.PublicKey()), line(rsaKeyPair.PublicKey()))
	for what, c := range map[string]struct {
		host ssh.Signer
		text string
		want error
	}{
		"trusted":             {certificate("127.0.0.1", authority), trusted, nil},
		"without its port":    {certificate("127.0.0.1", authority), "@cert-authority 127.0.0.1 " + line(authority.PublicKey()), nil},
		"for another host":    {certificate("elsewhere", authority), trusted, ErrHostKeyUnknown},
		"by another":          {certificate("127.0.0.1", sshtest.NewKey(t)), trusted, ErrHostKeyUnknown},
		"but a known key":     {certificate("127.0.0.1", sshtest.NewKey(t)), trusted + "\n127.0.0.1 " + line(host.PublicKey()), nil},
		"and another key":     {certificate("127.0.0.1", sshtest.NewKey(t)), trusted + "\n127.0.0.* " + line(sshtest.NewKey(t).PublicKey()), ErrHostKeyChanged},
		"authority revoked":   {certificate("127.0.0.1", authority), trusted + "\n@revoked * " + line(authority.PublicKey()), ErrHostKeyRevoked},
		"its own key revoked": {certificate("127.0.0.1", authority), trusted + "\n@revoked * " + line(host.PublicKey()), ErrHostKeyRevoked},
		"signed with SHA-1":   {certificate("127.0.0.1", signsWith(t, rsaKeyPair, ssh.KeyAlgoRSA)), rsaTrusted, ErrHostKeyUnknown},
		"signed by RSA":       {certificate("127.0.0.1", signsWith(t, rsaKeyPair, ssh.KeyAlgoRSASHA256)), rsaTrusted, nil},
		"another signature":   {certificate("127.0.0.1", authority), trusted, ErrHostKeyUnknown},
		"only this signature": {certificate("127.0.0.1", authority), trusted, nil},
	} {
		_, o, write := known(t, sshtest.Options{Host: c.host})
		o.Algorithms.CASignatures = map[string]string{"another signature": "rsa-sha2-*", "only this signature": "ssh-ed25519,x"}[what]
		write(c.text + "\n")
		conn, err := Dial(t.Context(), o)
		if conn != nil {
			conn.Close()
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", what, err, c.want)
		}
	}
}

func signsWith(t *testing.T, key ssh.Signer, algorithm string) ssh.Signer {
	t.Helper()
	signer, err := ssh.NewSignerWithAlgorithms(key.(ssh.AlgorithmSigner), []string{algorithm})
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// A server that has a certificate besides its key is asked for the key where no
// authority is known, whatever the list allows.
func TestNoAuthorityNoCertificate(t *testing.T) {
	_, o, write := known(t, sshtest.Options{})
	o.Algorithms.HostKeys = "ssh-ed25519-cert-v01@openssh.com,sk-ssh-ed25519@openssh.com,ssh-ed25519"
	for text, want := range map[string]string{
		"": "ssh-ed25519",
		"@cert-authority * " + line(sshtest.NewKey(t).PublicKey()): "ssh-ed25519-cert-v01@openssh.com ssh-ed25519",
	} {
		write(text + "\n")
		h, err := newHostCheck(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(h.algorithms, " "); got != want {
			t.Errorf("with %q the server is asked for %q, want %q", text, got, want)
		}
	}
}

func TestLengthOfHostKeys(t *testing.T) {
	key := rsaSigner(t) // 2048 bits
	s, o, write := known(t, sshtest.Options{Host: key})
	text := knownhosts.Normalize(s.Addr) + " " + line(key.PublicKey()) + "\n"
	write(text)
	o.MinRSABits = 2048
	dial(t, o)
	o.MinRSABits = 2049
	pinned := o
	pinned.HostKey = key.PublicKey()
	for what, o := range map[string]Options{"known": o, "pinned": pinned} {
		if _, err := Dial(t.Context(), o); !errors.Is(err, ErrHostKeyShort) || !strings.Contains(err.Error(), "has 2048 bits of the 2049") || cluster.Hint(err) == "" {
			t.Errorf("%s: %v (hint %q)", what, err, cluster.Hint(err))
		}
	}
	// Nobody is asked to accept one, and none is remembered.
	write("")
	o.StrictHostKeys = StrictAcceptNew
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrHostKeyShort) {
		t.Error(err)
	}
	if text, _ := os.ReadFile(o.KnownHosts[0]); len(text) > 0 {
		t.Errorf("it was remembered: %q", text)
	}
}

func TestFirstContact(t *testing.T) {
	yes := func(answer string) func(context.Context, Question) (string, error) {
		return func(_ context.Context, q Question) (string, error) {
			if q.Secret || !strings.Contains(q.Text, "ED25519 key fingerprint is SHA256:") {
				return "", fmt.Errorf("odd question %q", q.Text)
			}
			return answer, nil
		}
	}
	for what, c := range map[string]struct {
		strict string
		ask    func(context.Context, Question) (string, error)
		ok     bool
	}{
		"asked, yes":       {"", yes("Yes\n"), true},
		"asked, no":        {"ask", yes("no"), false},
		"asked, enter":     {"ask", yes(""), false},
		"nobody":           {"ask", nil, false},
		"nobody answers":   {"ask", func(context.Context, Question) (string, error) { return "yes", errors.New("gone") }, false},
		"never":            {"yes", yes("yes"), false},
		"new ones":         {"accept-new", nil, true},
		"all":              {"no", nil, true},
		"fingerprint":      {"ask", nil, true},
		"a wrong finger":   {"ask", yes("SHA256:x"), false},
		"hashed":           {"accept-new", nil, true},
		"without its line": {"accept-new", nil, true},
	} {
		s, o, write := known(t, sshtest.Options{})
		file := filepath.Join(filepath.Dir(o.KnownHosts[0]), "new", "known_hosts")
		o.KnownHosts = []string{file}
		o.StrictHostKeys, o.Ask = c.strict, c.ask
		var said []string
		o.Say = func(line string) { said = append(said, line) }
		switch what {
		case "fingerprint":
			o.Ask = yes(ssh.FingerprintSHA256(s.Host.PublicKey()))
		case "hashed":
			o.HashKnownHosts = true
		case "without its line":
			o.KnownHosts = []string{filepath.Join(filepath.Dir(filepath.Dir(file)), "known")}
			file = o.KnownHosts[0]
			write("example.org " + line(s.Host.PublicKey())) // no newline
		}
		conn, err := Dial(t.Context(), o)
		if !c.ok {
			if !errors.Is(err, ErrHostKeyUnknown) || !strings.Contains(cluster.Hint(err), "ssh-keyscan -t ed25519 -p ") || !strings.Contains(cluster.Hint(err), "git cluster use "+s.Addr) {
				t.Errorf("%s: %v (hint %q)", what, err, cluster.Hint(err))
			}
			if _, err := os.Stat(file); err == nil {
				t.Errorf("%s: a refused key was remembered", what)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		conn.Close()
		text, err := os.ReadFile(file)
		if info, _ := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 || strings.Contains(string(text), "127.0.0.1") == o.HashKnownHosts || len(said) != 1 {
			t.Errorf("%s: %v, %q, said %q", what, err, text, said)
		}
		// From now on it is known, and another key is refused whatever is set.
		o.Ask, o.Say = nil, nil
		if conn, err := Dial(t.Context(), o); err != nil {
			t.Errorf("%s, again: %v", what, err)
		} else {
			conn.Close()
		}
		if after, _ := os.ReadFile(file); !bytes.Equal(text, after) {
			t.Errorf("%s: the key was added twice: %q", what, after)
		}
		other := knownhosts.Normalize(s.Addr) + " " + line(sshtest.NewKey(t).PublicKey()) + "\n"
		if err := os.WriteFile(file, []byte(other), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Dial(t.Context(), o); !errors.Is(err, ErrHostKeyChanged) {
			t.Errorf("%s, changed: %v", what, err)
		}
	}
}

// A file that cannot be read is told of as such, and does not matter where the
// configuration names the key.
func TestUnreadableKnownHosts(t *testing.T) {
	s, o, write := known(t, sshtest.Options{})
	file := o.KnownHosts[0]
	pinned := o
	pinned.HostKey, pinned.Revocable = s.Host.PublicKey(), true
	check := func(what string) {
		t.Helper()
		_, err := Dial(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), file) || cluster.Hint(err) != "let your account read "+file+", or remove it" {
			t.Errorf("%s: %v (hint %q)", what, err, cluster.Hint(err))
		}
		dial(t, pinned)
	}
	if err := os.Symlink(file, file); err != nil {
		t.Skip(err)
	}
	check("a link to itself")
	os.Remove(file)
	write(knownhosts.Normalize(s.Addr) + " " + line(s.Host.PublicKey()) + "\n")
	if err := os.Chmod(file, 0); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		check("not for this account")
	}
	// A line that revokes who knows what stops a pinned one, too.
	os.Remove(file)
	write("@revoked * rubbish\n")
	for _, o := range []Options{o, pinned} {
		if _, err := Dial(t.Context(), o); err == nil || cluster.Hint(err) != "correct or remove that line" {
			t.Errorf("%v (hint %q)", err, cluster.Hint(err))
		}
	}
}

// A file that is none takes no keys, and none is read from it.
func TestNoKnownHosts(t *testing.T) {
	_, o, _ := known(t, sshtest.Options{})
	o.KnownHosts, o.StrictHostKeys = []string{os.DevNull}, StrictNo
	dial(t, o)
	o.KnownHosts = []string{}
	dial(t, o)
	o.StrictHostKeys = StrictAsk
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrHostKeyUnknown) {
		t.Error(err)
	}
}

func TestAlgorithmLists(t *testing.T) {
	usual, all := []string{"a", "b", "c"}, []string{"a", "b", "c", "d1", "d2"}
	for list, want := range map[string]string{
		"": "a b c", "c,x,a": "c a", "+d*": "a b c d1 d2", "-b,x": "a c", "^c,d1": "c d1 a b", "d?": "d1 d2", "x,y": "", "-a,b,c": "", "^x": "a b c",
	} {
		got, err := choose(usual, all, list)
		if strings.Join(got, " ") != want || (err != nil) != (want == "") || err != nil && !errors.Is(err, ErrUnsupported) {
			t.Errorf("%q: %q, %v; want %q", list, got, err, want)
		}
	}
	s := sshtest.Start(t, sshtest.Options{Handler: echo})
	o := options(s)
	o.Algorithms = Algorithms{Ciphers: "aes256-ctr", KeyExchanges: "^ecdh-sha2-nistp384", MACs: "hmac-sha2-512"}
	dial(t, o)
	o.Algorithms.Ciphers = "3des-odd"
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}
