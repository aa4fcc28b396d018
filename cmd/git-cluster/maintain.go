package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
)

func maintainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "maintain REPO", Short: "Gather a repository's packs and refs now", Args: cobra.ExactArgs(1),
		Long: "Nodes look after their replicas by themselves, when there is enough to do. This does it now, on one node\nafter the other. Objects that no ref reaches are kept for two weeks.",
	}
	node := cmd.Flags().String("node", "", "only this node's replica")
	full := cmd.Flags().Bool("full", false, "gather all packs in one, which reads and writes the whole repository")
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var done []engine.Upkeep
		if err := callTelling(cmd, "repo.maintain", admin.RepoMaintain{Name: args[0], Device: cluster.DeviceName(*node), Full: *full}, &done); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), done)
		}
		failed := 0
		for _, u := range done {
			switch {
			case u.Error != "":
				failed++
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", u.Device, u.Error)
			case u.Left == 0:
				fmt.Fprintf(cmd.OutOrStdout(), "%s: nothing to do\n", u.Device)
			default:
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %d packs, now %d, in %v\n", u.Device, u.Packs, u.Left, u.Took.Round(time.Millisecond))
			}
		}
		if failed > 0 {
			return fmt.Errorf("it failed on %d nodes", failed)
		}
		return nil
	}
	return cmd
}
