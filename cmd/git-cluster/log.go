package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/service"
)

func logCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "log REPO", Short: "Show a repository's pushes, the newest first", Args: cobra.ExactArgs(1),
		Long: "Shows who pushed what, when, through which node, how many replicas held it when it was\nacknowledged, and how long the push waited for the journal.",
	}
	count := cmd.Flags().IntP("number", "n", 20, "versions to show; each may hold several pushes")
	before := cmd.Flags().Uint64("before", 0, "start below this version")
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *count < 1 {
			return fmt.Errorf("-n %d: show at least one", *count)
		}
		all := admin.LogPage{Pushes: []service.PushRecord{}, Next: cluster.Version(*before)}
		for left := *count; left > 0; {
			var page admin.LogPage
			ask := admin.RepoLog{Name: args[0], Before: all.Next, Limit: min(left, 200)}
			if err := call(cmd, "repo.log", ask, &page); err != nil {
				return err
			}
			left -= ask.Limit
			all.Pushes = append(all.Pushes, page.Pushes...)
			if all.Next = page.Next; page.Next == 0 {
				break
			}
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), all)
		}
		for _, p := range all.Pushes {
			printPush(cmd.OutOrStdout(), p)
		}
		if all.Next > 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "more: --before %d\n", all.Next)
		}
		return nil
	}
	return cmd
}

func printPush(w io.Writer, p service.PushRecord) {
	var copies []string
	for _, c := range p.Copies {
		copies = append(copies, string(c))
	}
	fmt.Fprintf(w, "version %d  %s  %s through %s, on %s, waited %v\n", p.Version, p.Time.Local().Format("2006-01-02 15:04:05 -0700"),
		p.Actor, p.Node, strings.Join(copies, ", "), time.Duration(p.Waited)*time.Millisecond)
	for _, u := range p.Updates {
		fmt.Fprintf(w, "    %s  %s\n", change(u), u.Ref)
	}
	if rest := p.Refs - len(p.Updates); rest > 0 {
		fmt.Fprintf(w, "    … and %d more refs\n", rest)
	}
	if p.Head != "" {
		fmt.Fprintf(w, "    HEAD → %s\n", p.Head)
	}
}

// change says what an update did, in the width of two short object ids.
func change(u cluster.RefUpdate) string {
	short := func(o cluster.OID) string { return string(o[:min(len(o), 10)]) }
	switch {
	case u.Old.IsZero():
		return fmt.Sprintf("%-12s%s", "new", short(u.New))
	case u.New.IsZero():
		return fmt.Sprintf("%-12s%s", "deleted", short(u.Old))
	}
	return short(u.Old) + "→ " + short(u.New)
}
