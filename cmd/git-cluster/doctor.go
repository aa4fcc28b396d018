package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"gitcluster/internal/admin"
	"gitcluster/internal/client"
	"gitcluster/internal/config"
	"gitcluster/internal/doctor"
	"gitcluster/internal/replica"
	"gitcluster/internal/version"
)

func doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor [cluster::REPOSITORY]",
		Short: "Look for what keeps this machine from using its clusters, and say what to do",
		Long: "doctor looks at the programs Git needs, the configuration, the keys, and every node: whether it can be reached, has the right host key, lets you in, runs the same version, and has the same time. " +
			"With a repository it looks whether every node shows its newest version. On a machine with a node it looks at that, too.\n\nEach finding is a line that begins with ok, warn or fail. The exit status is 1 if anything failed.",
		Args: cobra.MaximumNArgs(1),
	}
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := newDoctor(cmd, args)
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		findings := []doctor.Finding{}
		well := d.Examine(cmd.Context(), func(f doctor.Finding) {
			findings = append(findings, f)
			if *asJSON {
				return
			}
			fmt.Fprintf(out, "%-4s  %s: %s\n", f.Level, f.Check, f.Found)
			if f.Do != "" {
				fmt.Fprintf(out, "      hint: %s\n", f.Do)
			}
		})
		if *asJSON {
			if err := printJSON(out, findings); err != nil {
				return err
			}
		}
		if err := cmd.Context().Err(); err != nil {
			return context.Cause(cmd.Context())
		}
		if !well {
			return exitStatus(1)
		}
		return nil
	}
	return cmd
}

// newDoctor says what to examine: the clusters of the configuration, or that of
// --cluster or of the repository alone, and the node of this machine.
func newDoctor(cmd *cobra.Command, args []string) (*doctor.Doctor, error) {
	d := &doctor.Doctor{Getenv: os.Getenv, Environ: os.Environ(), Version: version.String()}
	d.Candidates = func(ctx context.Context, name string) ([]replica.Candidate, error) {
		return client.Replicas(ctx, "cluster::"+name+":any", os.Getenv)
	}
	conf, err := config.LoadClient(config.ClientPath())
	if d.Client = err; err == nil {
		d.Clusters = slices.Sorted(maps.Keys(conf.Clusters))
	}
	wanted, _ := cmd.Flags().GetString("cluster")
	if len(args) > 0 {
		a, err := repositoryAddress(cmd, args[0])
		if err != nil {
			return nil, err
		}
		d.Repository = a.Path
		if wanted = a.Cluster; a.Hosts != nil {
			text := a.String()
			d.Clusters = []string{text}
			d.Candidates = func(ctx context.Context, _ string) ([]replica.Candidate, error) {
				return client.Replicas(ctx, text, os.Getenv)
			}
		}
	}
	if conf != nil && (wanted != "" || len(args) > 0 && len(d.Clusters) > 1) {
		name, _, err := conf.Find(wanted)
		if err != nil {
			return nil, err
		}
		d.Clusters = []string{name}
	}
	data := dataFlag(cmd)
	if _, err := os.Stat(filepath.Join(data, "node.toml")); err == nil || cmd.Flags().Changed("data") {
		d.Data = data
		d.Status = func(ctx context.Context) (st admin.Status, err error) {
			whole := cmd.Context()
			cmd.SetContext(ctx)
			defer cmd.SetContext(whole)
			err = exchange(cmd, overSocket, "status", struct{}{}, &st, io.Discard)
			return st, err
		}
	}
	return d, nil
}
