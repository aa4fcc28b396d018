package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
)

func verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify [REPO]", Short: "Compare every replica with the journal", Args: cobra.MaximumNArgs(1),
		Long: "Compares the refs of every replica of a repository, or of all repositories, with the journal.\nWith --deep it also walks from every ref to see that no object is missing.\nNodes do the first by themselves, each replica about once a day.\nThe exit code is 1 if anything is wrong.",
	}
	deep := cmd.Flags().Bool("deep", false, "also look for missing objects, which may take long")
	asJSON := cmd.Flags().Bool("json", false, "print JSON, one object for each repository")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		wrong := 0
		verify := func(name string) error {
			var v admin.Verdicts
			if err := call(cmd, "repo.verify", admin.RepoVerify{Name: name, Deep: *deep}, &v); err != nil {
				return err
			}
			for _, verdict := range v.Verdicts {
				if !verdict.OK() {
					wrong++
				}
			}
			if *asJSON {
				return printJSON(cmd.OutOrStdout(), v)
			}
			printVerdicts(cmd.OutOrStdout(), v)
			return nil
		}
		if err := eachRepo(cmd, args, verify); err != nil {
			return err
		}
		if wrong > 0 {
			return cluster.WithHint(fmt.Errorf("%d replicas are not what the journal says", wrong),
				"`git cluster repair REPO` keeps what differs below refs/strays/ and follows the journal")
		}
		return nil
	}
	return cmd
}

// eachRepo calls do with the repository of the arguments, or with all.
func eachRepo(cmd *cobra.Command, args []string, do func(name string) error) error {
	if len(args) > 0 {
		return do(args[0])
	}
	for ask := (admin.RepoList{}); ; {
		var page admin.RepoPage
		if err := call(cmd, "repo.list", ask, &page); err != nil {
			return err
		}
		for _, r := range page.Repos {
			if err := do(string(r.Name)); err != nil {
				return fmt.Errorf("%s: %w", r.Name, err)
			}
		}
		if ask.After = page.Next; page.Next == "" {
			return nil
		}
	}
}

func printVerdicts(w io.Writer, v admin.Verdicts) {
	for _, d := range v.Verdicts {
		if d.Mended != "" {
			fmt.Fprintf(w, "%s: %s: mended: %s\n", v.Name, d.Device, d.Mended)
		}
		switch {
		case d.OK():
			fmt.Fprintf(w, "%s: %s: ok, version %d, %d refs\n", v.Name, d.Device, d.Position.Version, d.Refs)
			continue
		case d.Problem != "":
			fmt.Fprintf(w, "%s: %s: %s\n", v.Name, d.Device, d.Problem)
		default:
			fmt.Fprintf(w, "%s: %s: %d of its refs differ\n", v.Name, d.Device, d.WrongRefs)
		}
		for _, r := range d.Wrong {
			fmt.Fprintf(w, "    %s is %s on disk and %s in the journal\n", r.Ref, orNone(r.Disk), orNone(r.Journal))
		}
		if more := d.WrongRefs - len(d.Wrong); more > 0 {
			fmt.Fprintf(w, "    … and %d more\n", more)
		}
	}
}

func orNone(oid cluster.OID) string {
	if oid == "" {
		return "absent"
	}
	return string(oid)
}

func repairCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "repair REPO", Short: "Make replicas that differ follow the journal again", Args: cobra.ExactArgs(1),
		Long: "Makes the replicas of a repository that differ from the journal show what it says. Values that a\nreplica had and the journal never, are kept on that node below refs/strays/.",
	}
	node := cmd.Flags().String("node", "", "repair the replica of this node, whether it differs or not")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var done []admin.Repaired
		if err := call(cmd, "repo.repair", admin.RepoRepair{Name: args[0], Device: cluster.DeviceName(*node)}, &done); err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		if len(done) == 0 {
			fmt.Fprintln(out, "Every replica is what the journal says.")
		}
		failed := 0
		for _, r := range done {
			if r.Error != "" {
				failed++
				fmt.Fprintf(out, "%s: %s\n", r.Device, r.Error)
				continue
			}
			fmt.Fprintf(out, "%s: repaired, %d strays kept\n", r.Device, len(r.Strays))
			for _, s := range r.Strays {
				kept := "kept as " + string(s.Kept)
				if s.Kept == "" {
					kept = "not kept: objects that it reaches are missing"
				}
				fmt.Fprintf(out, "    %s was %s, %s\n", s.Ref, s.Value, kept)
			}
		}
		if failed > 0 {
			return fmt.Errorf("%d replicas were not repaired", failed)
		}
		return nil
	}
	return cmd
}

func acceptLossCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "accept-loss REPO", Short: "Give up pushes whose only replicas are gone for good", Args: cobra.ExactArgs(1),
		Long: "Says which acknowledged pushes no node that can be reached has the objects of, and with --give-up, which\nnames the versions it has said, gives them up: it saves a bundle of what survives on the best node, and\nappends one entry to the journal that leads back to the newest version that survives. A replica that comes\nback with what was given up keeps it below refs/strays/. While a node is up that does not say what it\nhas, nothing is given up.",
	}
	versions := cmd.Flags().String("give-up", "", "really give up these `versions`, such as 42-43")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var loss admin.LossFound
		if err := call(cmd, "repo.loss", admin.RepoLoss{Name: args[0]}, &loss); err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		printLoss(out, loss)
		if err := loss.Refused(); err != nil {
			return err
		}
		again := fmt.Sprintf("if the nodes that have them are gone for good: git cluster accept-loss %s --give-up %s", args[0], loss.Range())
		switch *versions {
		case loss.Range():
		case "":
			return cluster.WithHint(errors.New("nothing was changed"), again)
		default:
			return cluster.WithHint(fmt.Errorf("nothing was changed: the versions that would be given up are %s, not %s", loss.Range(), *versions), again)
		}
		var done admin.LossAccepted
		if err := call(cmd, "repo.accept-loss", admin.LossAccept{Name: args[0], Loss: loss.Loss}, &done); err != nil {
			return err
		}
		fmt.Fprintf(out, "Given up. %s shows version %d again, as version %d.\n", args[0], loss.Survives, loss.Head+1)
		if done.Bundle != "" {
			fmt.Fprintf(out, "A bundle of what survives is on %s: %s\n", done.Device, done.Bundle)
		}
		return nil
	}
	return cmd
}

func printLoss(out io.Writer, loss admin.LossFound) {
	fmt.Fprintf(out, "The journal is at version %d. The best replica, on %s, can show version %d.\n", loss.Head, loss.Device, loss.Survives)
	for _, m := range loss.Missing {
		what := "cannot be reached, and may have more"
		if m.Up {
			what = "is up and does not say what it has"
		}
		fmt.Fprintf(out, "%s %s: %s\n", m.Device, what, m.Error)
	}
	fmt.Fprintln(out, "These pushes would be lost:")
	if loss.Untold > 0 {
		fmt.Fprintf(out, "  versions %d to %d, of which the journal no longer says what they were\n", loss.Survives+1, loss.Untold)
	}
	for _, e := range loss.Entries {
		for _, p := range e.Pushes {
			fmt.Fprintf(out, "  version %d  %s  %s through %s, %d refs\n", e.Version, e.Time.Local().Format(time.DateTime), p.Actor, e.Device, p.Refs)
		}
	}
	if loss.Untold > 0 {
		fmt.Fprintf(out, "Its refs would be those of version %d again. All other replicas would take them from there, and keep what\nthey have besides below refs/strays/.\n", loss.Survives)
	} else {
		fmt.Fprintln(out, "These refs would go back:")
	}
	for _, u := range loss.Refs {
		fmt.Fprintf(out, "  %s from %s to %s\n", u.Ref, orNone(u.Old), orNone(u.New))
	}
}
