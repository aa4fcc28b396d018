package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"gitcluster/internal/admin"
	"gitcluster/internal/backup"
)

func backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "backup DIR", Short: "Write users, grants and repositories to a folder, or bring one up to date", Args: cobra.ExactArgs(1),
		Long:    "The node of --data writes to a folder of its machine, with its account's rights. A second backup to the\nsame folder transfers only what is new. One that is broken off leaves the last one whole.\nThe folder holds the hashes of access tokens; it has mode 0700.",
		Example: "  git cluster backup /var/backups/git-cluster",
	}
	repos := cmd.Flags().StringSlice("repo", nil, "only this repository, leaving others as they are in the backup; repeatable")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		var sum backup.Summary
		if err := callTelling(cmd, "backup", admin.BackupWrite{Dir: dir, Repos: *repos}, &sum); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s holds %d repositories; %d changed, with %d bytes of objects.\n", dir, sum.Repositories, sum.Changed, sum.Bytes)
		return nil
	}
	return cmd
}

func restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "restore DIR", Short: "Bring back what `git cluster backup` wrote", Args: cobra.ExactArgs(1),
		Long:    "Restores users, devices, grants and repositories into the cluster of the node of --data, which is usually\na new one. Users and devices that are there already stay as they are. Nothing is restored if a repository\nof one of the names is there.",
		Example: "  git cluster restore /var/backups/git-cluster\n  git cluster restore /var/backups/git-cluster --repo team/app --as team/app-before",
	}
	var p admin.BackupRestore
	cmd.Flags().StringVar(&p.Repo, "repo", "", "only this repository, and no users or grants")
	cmd.Flags().StringVar(&p.As, "as", "", "another name for the repository of --repo")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if p.As != "" && p.Repo == "" {
			return fmt.Errorf("--as names the repository of --repo")
		}
		var err error
		if p.Dir, err = filepath.Abs(args[0]); err != nil {
			return err
		}
		var done backup.Restored
		if err := callTelling(cmd, "restore", p, &done); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Restored %d repositories, %d users, %d devices and %d grants.\n", len(done.Repositories), done.Users, done.Devices, done.Grants)
		return nil
	}
	return cmd
}
