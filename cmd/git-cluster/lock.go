package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
)

func lockCommand() *cobra.Command {
	return &cobra.Command{
		Use: "lock REPO", Short: "Hold a repository's writes, to change its refs on this node's disk", Args: cobra.ExactArgs(1),
		Long: "Every push to the repository is refused until `git cluster unlock`. Meanwhile its refs may be changed on\nthe disk of this node, which serves nobody from it; other nodes go on to serve what the journal says.",
		RunE: func(cmd *cobra.Command, args []string) error {
			var l admin.Locked
			if err := call(cmd, "repo.lock", admin.RepoLock{Name: args[0]}, &l); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s is locked. Work on %s in:\n", args[0], l.Device)
			fmt.Fprintln(cmd.OutOrStdout(), l.Dir)
			return nil
		},
	}
}

func unlockCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "unlock REPO", Short: "Make what was changed under a lock one entry of the journal", Args: cobra.ExactArgs(1),
	}
	var p admin.RepoLock
	cmd.Flags().BoolVar(&p.Abandon, "abandon", false, "keep what was changed below refs/strays/ and follow the journal instead")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p.Name = args[0]
		var changed []cluster.RefUpdate
		if err := call(cmd, "repo.unlock", p, &changed); err != nil {
			return err
		}
		for _, u := range changed {
			fmt.Fprintf(cmd.OutOrStdout(), "    %s  %s\n", change(u), u.Ref)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Unlocked; %d refs changed.\n", len(changed))
		return nil
	}
	return cmd
}
