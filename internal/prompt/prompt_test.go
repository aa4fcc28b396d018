package prompt

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// programs makes askpass programs in a directory: "right" prints an answer, and
// each notes that it was asked.
func programs(t *testing.T) (dir string, asked func() string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the programs are shell scripts")
	}
	dir = t.TempDir()
	log := filepath.Join(dir, "log")
	for name, text := range map[string]string{
		"git": "echo git answer", "ssh": "printf 'ssh answer\\r\\nmore\\n'", "fails": "echo partly; exit 1", "endless": "while :; do echo x; done",
	} {
		text = "#!/bin/sh\necho " + name + ": \"$1\" >>" + log + "\n" + text + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir, func() string {
		text, _ := os.ReadFile(log)
		os.Remove(log)
		return strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "; ")
	}
}

// Who asked for no question gets none, and the answer that is known.
func TestWithoutAsking(t *testing.T) {
	dir, asked := programs(t)
	p := &Person{
		Getenv:  func(name string) string { return map[string]string{"SSH_ASKPASS": filepath.Join(dir, "ssh")}[name] },
		AskPass: func(context.Context) (string, error) { return filepath.Join(dir, "git"), nil },
	}
	unasked := WithoutAsking(t.Context())
	if got, err := p.Ask(unasked, "q", true); !errors.Is(err, ErrUnasked) || MayAsk(unasked) || asked() != "" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := p.Ask(t.Context(), "q", true); got != "git answer" || err != nil || !MayAsk(t.Context()) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := p.Ask(unasked, "q", true); got != "git answer" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPrograms(t *testing.T) {
	dir, asked := programs(t)
	for name, c := range map[string]struct {
		env, core   string
		want, asked string
	}{
		"git":              {"GIT_ASKPASS=git SSH_ASKPASS=ssh", "ssh", "git answer", "git: q"},
		"core.askPass":     {"SSH_ASKPASS=ssh", "git", "git answer", "git: q"},
		"ssh":              {"SSH_ASKPASS=ssh", "", "ssh answer", "ssh: q"},
		"ssh is preferred": {"GIT_ASKPASS=git SSH_ASKPASS=ssh SSH_ASKPASS_REQUIRE=prefer", "", "ssh answer", "ssh: q"},
		"ssh is forced":    {"GIT_ASKPASS=git SSH_ASKPASS=fails SSH_ASKPASS_REQUIRE=force", "", "", "fails: q"},
		"never ssh":        {"SSH_ASKPASS=ssh SSH_ASKPASS_REQUIRE=never", "", "", ""},
		"git fails":        {"GIT_ASKPASS=fails SSH_ASKPASS=ssh", "", "ssh answer", "fails: q; ssh: q"},
		"both fail":        {"GIT_ASKPASS=fails", "", "", "fails: q"},
		"nothing":          {"", "", "", ""},
	} {
		env := map[string]string{"GIT_TERMINAL_PROMPT": "0"}
		for _, v := range strings.Fields(c.env) {
			name, value, _ := strings.Cut(v, "=")
			if value != "never" && value != "prefer" && value != "force" {
				value = filepath.Join(dir, value)
			}
			env[name] = value
		}
		p := &Person{Getenv: func(name string) string { return env[name] }}
		if c.core != "" {
			p.AskPass = func(context.Context) (string, error) { return filepath.Join(dir, c.core), nil }
		}
		got, err := p.Ask(t.Context(), "q", true)
		if got != c.want || (err == nil) != (c.want != "") || c.asked == "" && !errors.Is(err, ErrNobody) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
		if got := asked(); got != c.asked {
			t.Errorf("%s: asked %q, want %q", name, got, c.asked)
		}
	}
}

func TestEachQuestionOnce(t *testing.T) {
	dir, asked := programs(t)
	p := &Person{Getenv: func(name string) string {
		return map[string]string{"SSH_ASKPASS": filepath.Join(dir, "ssh"), "GIT_TERMINAL_PROMPT": "0"}[name]
	}}
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if got, err := p.Ask(t.Context(), "q", true); got != "ssh answer" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	all.Wait()
	p.Ask(t.Context(), "other", true)
	if got := asked(); got != "ssh: q; ssh: other" {
		t.Errorf("asked %q", got)
	}
}

func TestCancel(t *testing.T) {
	dir, _ := programs(t)
	p := &Person{Getenv: func(name string) string {
		return map[string]string{"GIT_ASKPASS": filepath.Join(dir, "endless"), "GIT_TERMINAL_PROMPT": "0"}[name]
	}}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	result := make(chan error, 1)
	go func() {
		_, err := p.Ask(ctx, "q", true)
		result <- err
	}()
	for {
		if _, err := os.Stat(filepath.Join(dir, "log")); err == nil {
			break
		}
		runtime.Gosched()
	}
	cancel(why)
	if err := <-result; err != why {
		t.Errorf("%v, want the context's cause", err)
	}
}

func TestMayUseTerminal(t *testing.T) {
	for value, want := range map[string]bool{"": true, "1": true, "true": true, "0": false, "false": false, "No": false, "off": false, "00": false} {
		if got := mayUseTerminal(value); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
}
