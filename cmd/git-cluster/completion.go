package main

import (
	"context"
	"embed"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/prompt"
)

// completionScripts ask this program for every completion, by cobra's hidden
// command. They are our own because Git has its say in how `git cluster` is completed.
//
//go:embed completion/bash completion/zsh completion/fish
var completionScripts embed.FS

func completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "completion bash|zsh|fish",
		Short:     "Print a completion script",
		Long:      "completion prints the script by which a shell completes `git-cluster` and `git cluster`. install.sh puts it where the shell looks for it; elsewhere:\n\n  bash  source <(git-cluster completion bash)\n  zsh   git-cluster completion zsh >\"${fpath[1]}/_git-cluster\"\n  fish  git-cluster completion fish >~/.config/fish/conf.d/git-cluster.fish",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			script, err := completionScripts.ReadFile("completion/" + args[0])
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(script)
			return err
		},
	}
}

// completionPatience is how long a person at a prompt waits for names. What
// fails or takes longer is not completed.
const completionPatience = time.Second

// A nameList lists the names that begin with a prefix.
type nameList func(cmd *cobra.Command, prefix string) ([]string, error)

// arguments says what stands at each place behind a command.
var arguments = map[string][]nameList{
	"repo show":         {repositoryNames},
	"repo rename":       {repositoryNames},
	"repo delete":       {repositoryNames},
	"repo set":          {repositoryNames},
	"repo observe":      {repositoryNames},
	"repo import":       {nil, files},
	"pull":              {repositoryNames},
	"log":               {repositoryNames},
	"verify":            {repositoryNames},
	"repair":            {repositoryNames},
	"maintain":          {repositoryNames},
	"backup":            {files},
	"restore":           {files},
	"accept-loss":       {repositoryNames},
	"user remove":       {userNames},
	"user token create": {userNames},
	"user token list":   {userNames},
	"user token revoke": {userNames},
	"key add":           {userNames, files},
	"key remove":        {userNames, files},
	"grant":             {userNames, words("read", "write", "admin"), repositoryNames},
	"revoke":            {userNames, repositoryNames},
	"device show":       {deviceNames},
	"device set":        {deviceNames},
	"device enable":     {deviceNames},
	"device disable":    {deviceNames},
	"device trust":      {deviceNames},
	"device untrust":    {deviceNames},
	"device remove":     {deviceNames},
	"drain":             {clusterNodes},
	"lock":              {repositoryNames},
	"unlock":            {repositoryNames},
	"ssh":               {nodeNames},
	"resolve":           {repositoryAddresses},
	"doctor":            {repositoryAddresses},
}

// flagValues are those of flags that take only some.
var flagValues = map[string]nameList{
	"node":          clusterNodes,
	"when-degraded": words("refuse", "warn"),
	"object-format": words("sha1", "sha256"),
	"log-format":    words("text", "json"),
}

// completeArguments teaches all commands below root what their arguments are.
func completeArguments(root *cobra.Command) {
	root.CompletionOptions.DisableDefaultCmd = true
	root.RegisterFlagCompletionFunc("cluster", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return clusterNames(), cobra.ShellCompDirectiveNoFileComp
	})
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
		if !cmd.HasSubCommands() && cmd.ValidArgs == nil {
			_, path, _ := strings.Cut(cmd.CommandPath(), " ")
			cmd.ValidArgsFunction = complete(arguments[path])
		}
		for name, values := range flagValues {
			if cmd.Flags().Lookup(name) != nil {
				cmd.RegisterFlagCompletionFunc(name, completeFrom(values))
			}
		}
	}
	visit(root)
}

func complete(places []nameList) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(places) || places[len(args)] == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return completeFrom(places[len(args)])(cmd, args, prefix)
	}
}

func completeFrom(list nameList) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(prompt.WithoutAsking(cmd.Context()), completionPatience)
		defer cancel()
		cmd.SetContext(ctx)
		// Nobody expects to be asked anything by the tab key, nor do the programs that
		// they use for SSH.
		os.Setenv("GIT_TERMINAL_PROMPT", "0")
		os.Unsetenv("SSH_ASKPASS")
		os.Unsetenv("GIT_ASKPASS")
		type answer struct {
			names []string
			err   error
		}
		done := make(chan answer, 1)
		go func() {
			names, err := list(cmd, prefix)
			done <- answer{names, err}
		}()
		select {
		case a := <-done:
			if errors.Is(a.err, errFiles) {
				return nil, cobra.ShellCompDirectiveDefault
			}
			var match []string
			for _, name := range a.names {
				if strings.HasPrefix(name, prefix) {
					match = append(match, name)
				}
			}
			return match, cobra.ShellCompDirectiveNoFileComp
		case <-ctx.Done():
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
	}
}

// errFiles leaves it to the shell, which knows files best.
var errFiles = errors.New("file names")

func files(*cobra.Command, string) ([]string, error) { return nil, errFiles }

func words(all ...string) nameList {
	return func(*cobra.Command, string) ([]string, error) { return all, nil }
}

// repositoryNames asks for one page, from the prefix on: a person wants to see
// no more.
func repositoryNames(cmd *cobra.Command, prefix string) (names []string, err error) {
	p := admin.RepoList{Limit: 200}
	if prefix != "" {
		last := len(prefix) - 1
		p.After = prefix[:last] + string(prefix[last]-1) + "~"
	}
	var page admin.RepoPage
	err = call(cmd, "repo.list", p, &page)
	for _, r := range page.Repos {
		names = append(names, string(r.Name))
	}
	return names, err
}

// repositoryAddresses completes cluster::repository.
func repositoryAddresses(cmd *cobra.Command, prefix string) (all []string, err error) {
	const scheme = "cluster::"
	rest, ok := strings.CutPrefix(prefix, scheme)
	if !ok {
		return []string{scheme}, nil
	}
	if name, repo, ok := strings.Cut(rest, ":"); ok {
		cmd.Flags().Set("cluster", name)
		rest = repo
	}
	names, err := repositoryNames(cmd, rest)
	for _, name := range names {
		all = append(all, strings.TrimSuffix(prefix, rest)+name)
	}
	if !strings.Contains(prefix[len(scheme):], ":") {
		for _, name := range clusterNames() {
			all = append(all, scheme+name+":")
		}
	}
	return all, err
}

func userNames(cmd *cobra.Command, _ string) (names []string, err error) {
	var users []cluster.User
	err = call(cmd, "user.list", struct{}{}, &users)
	for _, u := range users {
		names = append(names, string(u.Name))
	}
	return names, err
}

func deviceNames(cmd *cobra.Command, _ string) ([]string, error) {
	return devices(cmd, func(cluster.Device) bool { return true })
}

// clusterNodes are those of the cluster, by its own word.
func clusterNodes(cmd *cobra.Command, _ string) ([]string, error) {
	return devices(cmd, func(d cluster.Device) bool { return d.Node })
}

func devices(cmd *cobra.Command, which func(cluster.Device) bool) (names []string, err error) {
	var all []cluster.Device
	err = call(cmd, "device.list", struct{}{}, &all)
	for _, d := range all {
		if which(d) {
			names = append(names, string(d.Name))
		}
	}
	return names, err
}

// clusterNames and nodeNames need no connection.
func clusterNames() (names []string) {
	conf, err := config.LoadClient(config.ClientPath())
	if err != nil {
		return nil
	}
	for name := range conf.Clusters {
		names = append(names, name)
	}
	return names
}

func nodeNames(cmd *cobra.Command, _ string) (names []string, err error) {
	conf, err := config.LoadClient(config.ClientPath())
	if err != nil {
		return nil, err
	}
	wanted, _ := cmd.Flags().GetString("cluster")
	_, c, err := conf.Find(wanted)
	if err != nil {
		return nil, err
	}
	for _, n := range c.Nodes {
		names = append(names, n.Name)
	}
	return names, nil
}
