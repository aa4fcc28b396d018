package main

import (
	"strings"
	"testing"
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
