package main

import (
	"github.com/spf13/cobra"

	"gitcluster/internal/demo"
)

func demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Set up a cluster on this machine and show it at work",
		Long:  "demo starts nodes on free ports of the loopback interface, pushes to one, clones from another, kills one and goes on. With --keep it stays up until Ctrl-C.",
		Args:  cobra.NoArgs,
	}
	o := demo.Options{}
	cmd.Flags().IntVar(&o.Nodes, "nodes", 3, "number of nodes")
	cmd.Flags().StringVar(&o.Dir, "dir", "", "directory for everything (default: a temporary one)")
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "stay up until SIGINT or SIGTERM")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o.Out = cmd.OutOrStdout()
		return demo.Run(cmd.Context(), o)
	}
	return cmd
}
