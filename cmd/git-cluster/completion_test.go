package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"gitcluster/internal/prompt"
)

// A command that was renamed would not be completed any more, and nobody would
// notice.
func TestArgumentsAreOfCommands(t *testing.T) {
	root := rootCommand()
	for path := range arguments {
		cmd, rest, err := root.Find(strings.Fields(path))
		if err != nil || len(rest) > 0 || cmd.HasSubCommands() || cmd.ValidArgsFunction == nil {
			t.Errorf("%q is not a command that takes arguments: %v, %v", path, cmd.CommandPath(), err)
		}
	}
}

// The tab key opens no window with a question.
func TestCompletionAsksNobody(t *testing.T) {
	for _, name := range []string{"GIT_TERMINAL_PROMPT", "SSH_ASKPASS", "GIT_ASKPASS"} {
		t.Setenv(name, "") // complete changes them
	}
	cmd := &cobra.Command{}
	cmd.SetContext(t.Context())
	asked := true
	complete([]nameList{func(cmd *cobra.Command, _ string) ([]string, error) {
		asked = prompt.MayAsk(cmd.Context())
		return nil, nil
	}})(cmd, nil, "")
	if asked {
		t.Error("names are listed in a context that lets a person be asked")
	}
}

// So would a flag that was renamed.
func TestFlagValuesAreOfFlags(t *testing.T) {
	seen := map[string]bool{}
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
		for name := range flagValues {
			if cmd.Flags().Lookup(name) == nil {
				continue
			}
			seen[name] = true
			if _, ok := cmd.GetFlagCompletionFunc(name); !ok {
				t.Errorf("%s --%s has no values", cmd.CommandPath(), name)
			}
		}
	}
	visit(rootCommand())
	for name := range flagValues {
		if !seen[name] {
			t.Errorf("no command has --%s", name)
		}
	}
}
