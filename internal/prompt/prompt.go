// Package prompt asks a person a question: on the terminal, or through the
// program that Git or SSH was told to ask with.
//
// Entry points: [Person.Ask]; [Person.Reachable] tells beforehand whether there is
// anybody, and [WithoutAsking] keeps everybody from being asked.
//
// It promises to ask one question at a time and each one once, whoever else needs
// the answer; never to wait where nobody can answer; to leave a terminal as it
// found it; and that no answer gets into an argument, a message or a file.
package prompt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// ErrNobody: there is neither a terminal nor a program to ask with.
var ErrNobody = errors.New("nobody can be asked: there is no terminal and no SSH_ASKPASS")

// ErrUnasked: the context is one of [WithoutAsking].
var ErrUnasked = errors.New("nobody is to be asked now")

type unasked struct{}

// WithoutAsking is a context for what a person has not asked for in so many words, such
// as a completion: no question that it leads to is put to them.
func WithoutAsking(ctx context.Context) context.Context {
	return context.WithValue(ctx, unasked{}, true)
}

// MayAsk reports whether a person may be asked.
func MayAsk(ctx context.Context) bool { return ctx.Value(unasked{}) == nil }

// A Person is whoever started Git. The zero value asks on the terminal only.
type Person struct {
	Getenv func(string) string
	// AskPass returns Git's setting core.askPass, if there is one.
	AskPass func(ctx context.Context) (string, error)

	mu      sync.Mutex
	answers map[string]answer
}

type answer struct {
	text string
	err  error
}

// Ask asks a question and returns the answer without its line's end. The answer
// to a secret question is not shown while it is typed.
func (p *Person) Ask(ctx context.Context, question string, secret bool) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, ok := p.answers[question]; ok {
		return a.text, a.err
	}
	if !MayAsk(ctx) {
		return "", ErrUnasked
	}
	text, err := p.ask(ctx, question, secret)
	if context.Cause(ctx) != nil {
		return "", context.Cause(ctx) // another that wants to know may still ask
	}
	if p.answers == nil {
		p.answers = map[string]answer{}
	}
	p.answers[question] = answer{text, err}
	return text, err
}

// Reachable reports whether there is a way to ask a person that ssh, too, would
// take: the terminal, or SSH's program.
func (p *Person) Reachable() bool {
	w := p.ways()
	return w.ssh != "" || w.terminal && terminalIsOurs()
}

// ways are those by which a person may be asked.
type ways struct {
	ssh      string // SSH_ASKPASS
	first    bool   // it comes before all others
	terminal bool
}

func (p *Person) getenv(name string) string {
	if p.Getenv == nil {
		return ""
	}
	return p.Getenv(name)
}

func (p *Person) ways() ways {
	require := p.getenv("SSH_ASKPASS_REQUIRE")
	w := ways{
		ssh:      p.getenv("SSH_ASKPASS"),
		first:    require == "force" || require == "prefer",
		terminal: require != "force" && mayUseTerminal(p.getenv("GIT_TERMINAL_PROMPT")),
	}
	if require == "never" {
		w.ssh = ""
	}
	return w
}

// ask tries the ways there are. A program that Git was told to use comes before
// the terminal, as in Git; one that only SSH was told of after it, as in SSH.
func (p *Person) ask(ctx context.Context, question string, secret bool) (string, error) {
	w := p.ways()
	git := p.getenv("GIT_ASKPASS")
	if git == "" && p.AskPass != nil {
		var err error
		if git, err = p.AskPass(ctx); err != nil {
			return "", err
		}
	}
	if w.ssh != "" && w.first {
		return run(ctx, w.ssh, question)
	}
	if git != "" {
		if text, err := run(ctx, git, question); err == nil {
			return text, nil
		}
	}
	if w.terminal {
		text, err := onTerminal(ctx, question, secret)
		if !errors.Is(err, ErrNobody) {
			return text, err
		}
	}
	if w.ssh != "" {
		return run(ctx, w.ssh, question)
	}
	return "", ErrNobody
}

// mayUseTerminal reads GIT_TERMINAL_PROMPT as Git reads a boolean.
func mayUseTerminal(value string) bool {
	switch strings.ToLower(value) {
	case "":
		return true
	case "false", "no", "off":
		return false
	}
	n, err := strconv.Atoi(value)
	return err != nil || n != 0
}

// maxAnswer is far above any passphrase.
const maxAnswer = 4 << 10

// run asks through a program, which gets the question as its argument and prints
// the answer.
func run(ctx context.Context, program, question string) (string, error) {
	out := &bounded{}
	err := new(gitexec.Runner).Run(ctx, gitcmd.Command{
		Args: []string{program, question}, Env: os.Environ(), Foreground: true,
	}, gitexec.IO{Stdout: out, Stderr: os.Stderr})
	if err != nil {
		return "", fmt.Errorf("the program that asks for it: %w", err)
	}
	text, _, _ := strings.Cut(string(out.text), "\n")
	return strings.TrimSuffix(text, "\r"), nil
}

// bounded keeps the start of what is written to it.
type bounded struct{ text []byte }

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxAnswer - len(b.text); room > 0 {
		b.text = append(b.text, p[:min(room, len(p))]...)
	}
	return len(p), nil
}
