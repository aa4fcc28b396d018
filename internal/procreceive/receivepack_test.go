package procreceive

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

// A host is a bare repository whose pre-receive hook writes down what it was shown, and
// refuses all of it.
type host struct {
	dir, seen      string
	ran, certified int // how often the hook ran, and was shown a certificate
}

func newHost(t testing.TB) *host {
	t.Helper()
	root := t.TempDir()
	h := &host{dir: filepath.Join(root, "a.git"), seen: filepath.Join(root, "seen")}
	git := func(args ...string) {
		t.Helper()
		if out, err := h.git(args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	git("init", "-q", "--bare", h.dir)
	git("-C", h.dir, "config", "receive.certNonceSeed", "seed")
	hook := fmt.Sprintf("#!/bin/sh\n{ cat; test -z \"$GIT_PUSH_CERT\" || echo signed; } >%s\nexit 1\n", h.seen)
	if err := os.WriteFile(filepath.Join(h.dir, "hooks", "pre-receive"), []byte(hook), 0o700); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) git(args ...string) *exec.Cmd {
	cmd := exec.Command("git", args...)
	cmd.Env = append(os.Environ(), "HOME="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull)
	return cmd
}

// emptyPack is one without objects; what follows the commands if one of them is no deletion.
const emptyPack = "PACK\x00\x00\x00\x02\x00\x00\x00\x00\x02\x9d\x08\x82\x3b\xd8\xa8\xea\xb5\x10\xad\x6a\xc7\x5c\x82\x3c\xfd\x3e\xd3\x1e"

// certificate is what a signed push begins with; its signature is none.
const certificate = "certificate version 0.1\n|pusher a <a@b> 0 +0000\n|nonce x\n|\n|" + zero + " " + one + " refs/heads/signed\n|-----BEGIN PGP SIGNATURE-----\n|x\n|-----END PGP SIGNATURE-----\n|push-cert-end\n"

// stream makes a client's words of a seed, one part of each byte.
func stream(seed []byte) string {
	var b strings.Builder
	packet := func(line string) { fmt.Fprintf(&b, "%04x%s", len(line)+4, line) }
	for i, c := range seed {
		command := fmt.Sprintf("%s %s refs/heads/a%d", one, zero, i)
		if c&16 != 0 {
			command = fmt.Sprintf("%s %s refs/heads/a%d", zero, one, i)
		}
		if i == 0 {
			command += "\x00report-status push-options atomic"
		}
		switch c & 15 {
		case 0:
			packet("shallow " + one)
		case 1:
			packet(command + "\n")
		case 2:
			fmt.Fprintf(&b, "%04X%s", len(command)+4, command)
		case 3:
			packet("push-cert\x00report-status")
			for line := range strings.SplitSeq(certificate, "|") {
				packet(line)
			}
		case 4:
			packet("push-cert")
		case 5:
			b.WriteString("0000")
		case 6:
			b.WriteString([]string{"0001", "0002", "0003", "0004", "+004", "00 4", "fff1", "000g"}[c>>5])
		case 7:
			packet([]string{"shallow", "push-cert-end", "shallow x", " ", one, "\x00push-cert", "push-certs", "Push-cert"}[c>>5])
		default:
			packet(command)
		}
	}
	b.WriteString("0000" + emptyPack)
	return b.String()
}

// agrees holds that what is heard of a stream is what Git takes it for.
func (h *host) agrees(t *testing.T, seed []byte) {
	t.Helper()
	in := stream(seed)
	if err := os.Remove(h.seen); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var heard *Commands
	before := true
	listening := Listen(iotest.HalfReader(strings.NewReader(in)), func(c Commands) error {
		_, err := os.Stat(h.seen)
		before = os.IsNotExist(err)
		heard = &c
		return nil
	})
	cmd := h.git("receive-pack", h.dir)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &said
	pipe, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.Copy(pipe, listening) // Git may end before it has read everything
	pipe.Close()
	cmd.Wait()
	seen, err := os.ReadFile(h.seen)
	if os.IsNotExist(err) {
		return // the hook did not run: Git would have none of it
	}
	if err != nil {
		t.Fatal(err)
	}
	signed, n := strings.HasSuffix(string(seen), "signed\n"), strings.Count(string(seen), "refs/heads/")
	h.ran++
	if signed {
		h.certified++
	}
	switch {
	case heard == nil || !before:
		t.Errorf("%x: the hook ran before anything was heard: %q", seed, in)
	case signed && !heard.Certificate:
		t.Errorf("%x: Git takes it for signed, and nobody heard: %q", seed, in)
	case !heard.Certificate && n != heard.Count:
		t.Errorf("%x: Git's hook was shown %d commands, and %d were heard: %q\n%s", seed, n, heard.Count, in, said.String())
	}
}

// What is heard of a push is what Git's own hook is shown, whatever a client sends.
func TestListenAgreesWithGit(t *testing.T) {
	h := newHost(t)
	for _, seed := range [][]byte{{8}, {24, 8, 24}, {0, 0, 8}, {3}, {3, 8}, {8, 3}, {0, 3}, {4}, {8, 5, 8}, {1, 2, 8}, {6}, {8, 6 | 3<<5}, {8, 6 | 3<<5, 8}} {
		h.agrees(t, seed)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		seed := make([]byte, 1+random.IntN(5))
		for i := range seed {
			if seed[i] = byte(random.Uint32()); random.IntN(2) == 0 {
				seed[i] |= 8
			}
		}
		h.agrees(t, seed)
	}
	t.Logf("the hook ran %d times, %d times for a signed push", h.ran, h.certified)
	if h.ran < 20 || h.certified < 2 {
		t.Error("hardly anything was compared")
	}
}

func FuzzListenAgreesWithGit(f *testing.F) {
	h := newHost(f)
	f.Add([]byte{8, 24, 3})
	f.Fuzz(func(t *testing.T, seed []byte) {
		if len(seed) < 20 {
			h.agrees(t, seed)
		}
	})
}
