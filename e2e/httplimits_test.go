package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
	"gitcluster/internal/credential"
)

// TestHTTPDevice lets a machine fetch as itself over HTTPS, checks what its tokens
// are worth, and then takes the journal away.
func TestHTTPDevice(t *testing.T) {
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "cluster::device/h", "main")
	dir := filepath.Join(t.TempDir(), "device")
	machine := c.NewUser(t, "machine").With("GIT_CLUSTER_DEVICE_DIR="+dir, "SSH_AUTH_SOCK=")
	token := u.Must(t, "", "git-cluster", "token", "create", "--device")
	if err := machine.Feed("", token+"\n", "git-cluster", "device", "enroll", c.Nodes[0].SSH, "--token", "-", "--name", "ci7").Err(); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		machine.Must(t, "", "git-credential-device", "configure", n.URL(""))
	}
	device := machine.With("PHABRICATOR_AS_DEVICE=1")
	n := c.Nodes[1]
	machine.Run("", "git", "ls-remote", n.URL("device/h")).Refused(t)
	if got := device.Git(t, "", "ls-remote", n.URL("device/h"), "refs/heads/main"); !strings.HasPrefix(got, head) {
		t.Errorf("the device reads %q, want %s", got, head)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	device.Git(t, "", "clone", "-q", n.URL("device/h"), clone)
	head = device.Commit(t, clone, "g", "two")
	if said := device.Run(clone, "git", "push", n.URL("device/h"), "main").Refused(t); !strings.Contains(said, "device/ci7 may read") {
		t.Errorf("%s", said)
	}
	u.Must(t, "", "git-cluster", "grant", "device/ci7", "write", "device/h")
	device.Git(t, clone, "push", "-q", n.URL("device/h"), "main")
	checkEverywhere(t, c, "device/h", map[string]string{"refs/heads/main": head})

	// A token counts at the host it is for, until it expires, as long as the device does.
	id, err := credential.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(host string, at time.Time) string {
		token, _, err := credential.Issue(t.Context(), id, host, at)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	web := c.HTTPClient(t)
	status := func(authorization, host string) int {
		r, err := http.NewRequestWithContext(t.Context(), "GET", n.URL("device/h/info/refs?service=git-upload-pack"), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", authorization)
		r.Host = host
		answer, err := web.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	good := issue(n.HTTP, time.Now())
	// In the middle of the signature: its last byte is often zero.
	middle, other := len(good)-20, "A"
	if good[middle] == 'A' {
		other = "B"
	}
	changed := good[:middle] + other + good[middle+1:]
	for name, tt := range map[string]struct {
		authorization, host string
		want                int
	}{
		"its own scheme":             {"ClusterDevice " + good, "", 200},
		"a password":                 {"Basic " + base64.StdEncoding.EncodeToString([]byte("device/ci7:"+good)), "", 200},
		"another device's password":  {"Basic " + base64.StdEncoding.EncodeToString([]byte("device/node1:"+good)), "", 401},
		"stolen from another server": {"ClusterDevice " + issue("evil.example.com", time.Now()), "evil.example.com", 401},
		"expired":                    {"ClusterDevice " + issue(n.HTTP, time.Now().Add(-credential.Lifetime-time.Second)), "", 401},
		"changed":                    {"ClusterDevice " + changed, "", 401},
	} {
		if got := status(tt.authorization, tt.host); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
	u.Must(t, "", "git-cluster", "device", "disable", "ci7")
	clustertest.Await(t, 30*time.Second, func() string {
		if got := status("ClusterDevice "+good, ""); got != 401 {
			return fmt.Sprintf("a disabled device gets %d", got)
		}
		return ""
	})

	// Without the journal nothing is promised, and this is said.
	user := u.With("GIT_CONFIG_PARAMETERS='http.extraHeader'='Authorization: Bearer " + u.Token(t) + "'")
	lone := c.Nodes[2]
	user.Git(t, "", "ls-remote", lone.URL("device/h"))
	ask := func(args ...string) func() clustertest.Result {
		return func() clustertest.Result { return user.Run(work, append([]string{"git"}, args...)...) }
	}
	_, usual := atOnce(map[string]func() clustertest.Result{"read": ask("ls-remote", lone.URL("device/h")), "again": ask("ls-remote", lone.URL("device/h")), "once more": ask("ls-remote", lone.URL("device/h"))})
	c.Nodes[0].Kill()
	c.Nodes[1].Kill()
	user.Commit(t, work, "f", "two")
	attempt(t, func() string {
		refused, slowest := atOnce(map[string]func() clustertest.Result{"read": ask("ls-remote", lone.URL("device/h")), "push": ask("push", lone.URL("device/h"), "main"), "first push": ask("push", lone.URL("device/new"), "main")})
		for what, r := range refused {
			if r.Status == 0 || !strings.Contains(r.Stderr, "remote: # ") || !strings.Contains(r.Stderr, "journal") || !strings.Contains(r.Stderr, "503") {
				t.Errorf("%s: status %d\n%s", what, r.Status, r.Stderr)
			}
		}
		if slowest > within(7*time.Second, usual) {
			return fmt.Sprintf("refused after %v, usually served after %v", slowest, usual)
		}
		return ""
	})
	for path, want := range map[string]int{"healthz": 200, "readyz": 503} {
		answer, err := web.Get(lone.URL(path))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, answer.StatusCode, want)
		}
	}
}

// TestHTTPUnderLoad has one node serve a large push, five hundred readers at once,
// and a clone beside clients who only disturb, within bounded memory.
func TestHTTPUnderLoad(t *testing.T) {
	c := clustertest.Start(t, 1)
	n, u := c.Nodes[0], c.Admin
	token := u.Token(t)
	user := u.With("GIT_CONFIG_PARAMETERS='http.extraHeader'='Authorization: Bearer " + token + "'")
	work := newWork(t, u)
	user.Commit(t, work, "f", "one")
	user.Git(t, work, "push", "-q", n.URL("load/small"), "main")

	const size, files, bound = 200 << 20, 20, 96 << 10
	noise := rand.NewChaCha8([32]byte{1})
	for i := range files {
		data := make([]byte, size/files)
		noise.Read(data)
		if err := os.WriteFile(filepath.Join(work, "large"+strconv.Itoa(i)), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	store := []string{"git", "-c", "core.compression=0", "-c", "core.bigFileThreshold=1m"}
	user.Must(t, work, append(store, "add", ".")...)
	user.Must(t, work, append(store, "commit", "-q", "-m", "large")...)
	before := peak(t, n)
	user.Must(t, work, append(store, "push", "-q", n.URL("load/large"), "main")...)
	if grown := peak(t, n) - before; grown > bound {
		t.Errorf("a push of %d MiB takes %d MiB of the node's memory", size>>20, grown>>10)
	}

	web := c.HTTPClient(t)
	web.Timeout = 3 * time.Minute
	ask := func(method, path, kind, authorization string, body []byte) (int, string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), web.Timeout)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, method, n.URL(path), bytes.NewReader(body))
		if err != nil {
			return 0, "", err
		}
		r.Header.Set("Authorization", authorization)
		r.Header.Set("Git-Protocol", "version=2")
		r.Header.Set("Content-Type", kind)
		answer, err := web.Do(r)
		if err != nil {
			return 0, "", err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		return answer.StatusCode, string(text), err
	}
	before = peak(t, n)
	start := time.Now()
	var wg sync.WaitGroup
	for range 500 {
		wg.Go(func() {
			status, text, err := ask("GET", "load/small/info/refs?service=git-upload-pack", "", "Bearer "+token, nil)
			if err == nil && status == 200 && strings.Contains(text, "version 2") {
				status, text, err = ask("POST", "load/small/git-upload-pack", "application/x-git-upload-pack-request", "Bearer "+token,
					[]byte("0014command=ls-refs\n0016object-format=sha10000"))
			}
			if err != nil || status != 200 || !strings.Contains(text, "refs/heads/main") {
				t.Errorf("a read: %d, %v, %.200q", status, err, text)
			}
		})
	}
	wg.Wait()
	t.Logf("500 reads in %v, %d MiB more memory", time.Since(start).Round(time.Millisecond), (peak(t, n)-before)>>10)
	if grown := peak(t, n) - before; grown > 2*bound {
		t.Errorf("500 reads take %d MiB of the node's memory", grown>>10)
	}

	// Connections that say little and say it slowly.
	for i := range 150 {
		slow, err := tls.Dial("tcp", n.HTTP, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Close()
		if i%3 == 0 {
			fmt.Fprintf(slow, "POST /load/small/git-upload-pack HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/x-git-upload-pack-request\r\nContent-Length: 100000\r\n\r\n0", token)
		} else {
			fmt.Fprint(slow, "GET /load/small/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: ")
		}
	}
	var refused atomic.Int64
	began := time.Now()
	for range 8 {
		wg.Go(func() {
			for i := range 1250 {
				wrong := base64.StdEncoding.EncodeToString([]byte(fmt.Sprintf("boss:gcu-%016x-%s", i, strings.Repeat("A", 43))))
				status, _, err := ask("GET", "load/small/info/refs?service=git-upload-pack", "", "Basic "+wrong, nil)
				if err != nil || status != 401 && status != 429 {
					t.Errorf("a wrong token: %d, %v", status, err)
					return
				}
				refused.Add(1)
			}
		})
	}
	user.Git(t, "", "clone", "-q", "--bare", n.URL("load/large"), filepath.Join(t.TempDir(), "clone"))
	beside := refused.Load()
	wg.Wait()
	t.Logf("%d of %d wrong logins beside the clone", beside, refused.Load())
	// So many a minute may be shown.
	took := time.Since(began)
	if lines := strings.Count(n.Log(), "login refused"); lines > 50*(1+int(took.Minutes())) {
		t.Errorf("%d lines of the log are about wrong logins, in %v", lines, took)
	}
}

// peak is the most memory a node has had resident, in KiB.
func peak(t *testing.T, n *clustertest.Node) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.PID()))
	if err != nil {
		t.Skip("there is no /proc here:", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}
