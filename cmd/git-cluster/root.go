package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gitcluster/internal/admin"
	"gitcluster/internal/client"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/localsocket"
	"gitcluster/internal/shell"
	"gitcluster/internal/version"
)

// defaultData is where a node of the system lives.
const defaultData = "/var/lib/git-cluster"

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "git-cluster",
		Short:         "A Git host of several machines that replicates itself",
		Long:          "git-cluster runs a node of a cluster of Git repositories and administers the cluster.\nOn a node, as the node's own account, commands go to the node of --data; elsewhere they go over SSH to the cluster of the client configuration.",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate("git-cluster {{.Version}}\n")
	root.PersistentFlags().String("data", os.Getenv("GIT_CLUSTER_DATA"), "data directory of this machine's node (default "+defaultData+")")
	root.PersistentFlags().String("cluster", "", "cluster of the client configuration, if not its default")
	root.AddCommand(
		initCommand(), joinCommand(), serveCommand(), shellCommand(), authorizedKeysCommand(), localTransportCommand(), sshCommand(),
		statusCommand(), repoCommand(), pullCommand(), logCommand(), lockCommand(), unlockCommand(), drainCommand(), verifyCommand(), repairCommand(), acceptLossCommand(), maintainCommand(), backupCommand(), restoreCommand(), userCommand(), keyCommand(), grantCommand(), revokeCommand(), grantsCommand(),
		deviceCommand(), tokenCommand(), demoCommand(), useCommand(), resolveCommand(), doctorCommand(), completionCommand(), versionCommand(),
	)
	completeArguments(root)
	return root
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return cluster.WithHint(fmt.Errorf("unknown command %q of %q", args[0], cmd.CommandPath()), fmt.Sprintf("see %s --help", cmd.CommandPath()))
		}
		return nil
	}}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.AddCommand(commands...)
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "git-cluster", version.String()) },
	}
}

// dataFlag is the data directory of the node on this machine.
func dataFlag(cmd *cobra.Command) string {
	if dir, _ := cmd.Flags().GetString("data"); dir != "" {
		return dir
	}
	return defaultData
}

// call runs an administrative method on a node: over the Unix socket of this
// machine's node if it has one and no client configuration is named, else over SSH.
func call(cmd *cobra.Command, method string, params, result any) error {
	return callWith(cmd, method, params, result, io.Discard)
}

// callWith is call with what the node writes to standard error.
func callWith(cmd *cobra.Command, method string, params, result any, stderr io.Writer) error {
	if local(cmd) {
		return exchange(cmd, overSocket, method, params, result, stderr)
	}
	return exchange(cmd, overSSH, method, params, result, stderr)
}

// exchange makes one administrative request over the streams that run provides.
func exchange(cmd *cobra.Command, run func(*cobra.Command, io.Reader, io.Writer, io.Writer) error, method string, params, result any, stderr io.Writer) error {
	requestR, requestW := io.Pipe()
	answerR, answerW := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(cmd, requestR, answerW, stderr)
		requestR.CloseWithError(orEOF(err))
		answerW.CloseWithError(orEOF(err))
		ended <- err
	}()
	err := admin.Call(answerR, requestW, method, params, result)
	answerR.Close()
	requestW.Close()
	if runErr := <-ended; err != nil && runErr != nil {
		return runErr
	}
	return err
}

func orEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

func local(cmd *cobra.Command) bool {
	if cmd.Flags().Changed("data") || os.Getenv("GIT_CLUSTER_DATA") != "" {
		return true
	}
	if cmd.Flags().Changed("cluster") || os.Getenv(config.EnvClient) != "" {
		return false
	}
	_, err := os.Stat(filepath.Join(defaultData, "node.toml"))
	return err == nil
}

func overSocket(cmd *cobra.Command, stdin io.Reader, stdout, stderr io.Writer) error {
	request := localsocket.SessionRequest{Command: shell.AdminCommand, As: cluster.Identity{Operator: true}}
	_, err := localsocket.RunSession(cmd.Context(), dataFlag(cmd), request, stdin, stdout, stderr)
	if errors.Is(err, localsocket.ErrNoNode) || errors.Is(err, fs.ErrNotExist) {
		err = cluster.WithHint(fmt.Errorf("no node runs on %s", dataFlag(cmd)), "start it with `git cluster serve`, or name another with --data")
	}
	return err
}

func overSSH(cmd *cobra.Command, stdin io.Reader, stdout, stderr io.Writer) error {
	file, err := config.LoadClient(config.ClientPath())
	if errors.Is(err, fs.ErrNotExist) {
		return cluster.WithHint(errors.New("there is neither a node on this machine nor a client configuration"),
			"on a node, name its data directory with --data; elsewhere: git cluster use ADDRESS-OF-A-NODE")
	}
	if err != nil {
		return err
	}
	wanted, _ := cmd.Flags().GetString("cluster")
	name, _, err := file.Find(wanted)
	if err != nil {
		return err
	}
	all, err := client.ReplicasOf(cmd.Context(), name, os.Getenv)
	if err != nil {
		return err
	}
	var failures []error
	for _, node := range all {
		conn, err := client.ConnectTo(cmd.Context(), node, os.Getenv, false)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		defer conn.Close()
		_, err = conn.Run(cmd.Context(), shell.AdminCommand, nil, stdin, stdout, stderr)
		return err
	}
	return fmt.Errorf("no node of the cluster answers: %w", errors.Join(failures...))
}

// table prints rows with aligned columns.
func table(w io.Writer, header string, rows func(row func(format string, a ...any))) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, header)
	rows(func(format string, a ...any) { fmt.Fprintf(t, format+"\n", a...) })
	return t.Flush()
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
