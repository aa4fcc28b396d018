package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
)

func drainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "drain NODE", Short: "Have a node take no more pushes, and wait until it is safe to stop", Args: cobra.ExactArgs(1),
		Long: "After drain the node takes no pushes; clients go on to others. It still serves reads, and keeps its\nreplicas current. The command waits until its pushes in progress have ended and a majority of the other\nnodes have everything.",
	}
	undo := cmd.Flags().Bool("undo", false, "have the node take pushes again")
	timeout := cmd.Flags().Duration("timeout", 10*time.Minute, "how long to wait")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		device, writable := cluster.DeviceName(args[0]), *undo
		if err := call(cmd, "device.set", admin.DeviceSet{Device: device, Writable: &writable}, nil); err != nil || *undo {
			return err
		}
		out := cmd.OutOrStdout()
		deadline := time.Now().Add(*timeout)
		for last := ""; ; {
			var st admin.DrainStatus
			if err := call(cmd, "drain.status", admin.DeviceName{Device: device}, &st); err != nil {
				return err
			}
			if st.Safe() {
				fmt.Fprintf(out, "%s is safe to stop.\n", device)
				return nil
			}
			line := st.Problem
			if line == "" {
				line = fmt.Sprintf("waiting for %d pushes and for other nodes to have %d repositories", st.Pushes, st.Left)
			}
			if line != last {
				fmt.Fprintln(out, line)
				last = line
			}
			if time.Now().After(deadline) {
				return cluster.WithHint(fmt.Errorf("%s is not safe to stop after %v: %s", device, *timeout, line), "it takes no pushes meanwhile; run the command again, or with --undo")
			}
			select {
			case <-time.After(500 * time.Millisecond):
			case <-cmd.Context().Done():
				return errors.New("interrupted; the node takes no pushes meanwhile")
			}
		}
	}
	return cmd
}

func deviceRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use: "remove NAME", Short: "Remove a machine from the cluster for good", Args: cobra.ExactArgs(1),
		Long: "Removes a device, its grants, and, if it is a node, its server of the journal. A machine that took its\nplace joins under its own key. What the machine still has of the cluster's files, its key above all,\nis of no more use; remove them there.",
	}
	var p admin.DeviceRemove
	cmd.Flags().BoolVar(&p.Force, "force", false, "although it is up and was not drained")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p.Device = cluster.DeviceName(args[0])
		return call(cmd, "device.remove", p, nil)
	}
	return cmd
}
