package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
)

func repoObserve() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "observe NAME URI | observe NAME --stop",
		Short: "Make a repository a mirror of one on another host",
		Long: "observe makes a repository follow a remote: one node at a time asks it for its refs and fetches what is new, and nobody can push to the mirror any more. " +
			"The repository is created if it is not there. The first pull is made at once.\n\n" +
			"URI is https://host/path, ssh://user@host/path, user@host:path, git://host/path or cluster://host/path. Given again, the settings are replaced, and SSH host keys that were learned are forgotten.",
		Example: "  git cluster repo observe mirrors/git https://git.example.org/git.git\n" +
			"  git cluster repo observe team/app git@example.org:app.git --credential deploy_key --every 1m\n" +
			"  git cluster repo observe team/app https://backup.example.org/app.git --also\n" +
			"  git cluster repo observe team/app --stop            # keep the refs, and take pushes again",
		Args: cobra.RangeArgs(1, 2),
	}
	var p admin.RepoObserve
	f := cmd.Flags()
	file := f.String("credential", "", "file with an SSH private key, or a user and a password as `git credential fill` prints them, or - for standard input")
	f.BoolVar(&p.Device, "device", false, "show the identity of the node that pulls (for cluster addresses)")
	f.DurationVar(&p.Every, "every", 0, "time between two pulls (default 5m)")
	f.StringArrayVar(&p.Refs, "refs", nil, "refs to mirror: a full name or a folder such as 'refs/heads/*'; repeatable (default branches and tags)")
	f.BoolVar(&p.Also, "also", false, "add a further address, tried where those before it fail")
	f.BoolVar(&p.Force, "force", false, "also if the repository is not empty: refs that the remote does not have are removed")
	f.StringVar(&p.Format, "object-format", "", "sha1 or sha256, for a repository that is created (default sha1)")
	stop := f.Bool("stop", false, "follow nothing any more; the refs stay, and the credential is deleted")
	for _, other := range []string{"credential", "device", "every", "refs", "also", "force", "object-format"} {
		cmd.MarkFlagsMutuallyExclusive("stop", other)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p.Name = args[0]
		if *stop {
			if len(args) > 1 {
				return errors.New("--stop goes with the name of the repository alone")
			}
			return call(cmd, "repo.unobserve", admin.RepoName{Name: p.Name}, nil)
		}
		if len(args) < 2 {
			return cluster.WithHint(errors.New("no URI is named"), "git cluster repo observe NAME URI, or NAME --stop")
		}
		p.URI = args[1]
		if *file != "" {
			text, err := readCredential(cmd, *file)
			if err != nil {
				return err
			}
			p.Credential = text
		}
		var r admin.Pulled
		if err := callTelling(cmd, "repo.observe", p, &r); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s follows %s. %s\n", r.Name, p.URI, summary(r))
		return nil
	}
	return cmd
}

// maxCredential is above what a node takes, in bytes; it keeps a wrong path from
// filling memory.
const maxCredential = 1 << 18

// readCredential reads a credential and nothing else: it is sent to a node.
func readCredential(cmd *cobra.Command, path string) (string, error) {
	in := cmd.InOrStdin()
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, maxCredential))
	if err == nil && strings.TrimSpace(string(text)) == "" {
		err = errors.New("the credential is empty")
	}
	return string(text), err
}

func pullCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "pull NAME", Short: "Pull a mirror now, or bring a node's replica of another repository up to date", Args: cobra.ExactArgs(1),
		Example: "  git cluster pull mirrors/git --debug      # every step, with its time and Git's command lines",
	}
	debug := cmd.Flags().Bool("debug", false, "show every step")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var r admin.Pulled
		if err := callTelling(cmd, "pull", admin.Pull{Name: args[0], Debug: *debug}, &r); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), summary(r))
		return nil
	}
	return cmd
}

// summary is what came of a pull, on one line.
func summary(r admin.Pulled) string {
	var b strings.Builder
	took := r.Took.Round(time.Millisecond)
	switch {
	case r.From == r.To && r.Changed == 0:
		b.WriteString("Already up to date.")
	case r.Mirror:
		refs := "refs"
		if r.Changed == 1 {
			refs = "ref"
		}
		fmt.Fprintf(&b, "%d %s changed, version %d → %d, %v.", r.Changed, refs, r.From, r.To, took)
	default:
		fmt.Fprintf(&b, "Version %d → %d, %v.", r.From, r.To, took)
	}
	if r.Note != "" {
		fmt.Fprintf(&b, " Not mirrored: %s.", r.Note)
	}
	return b.String()
}

// callTelling is call with the node's lines for the person who waits on standard
// error.
func callTelling(cmd *cobra.Command, method string, params, result any) error {
	return callWith(cmd, method, params, result, &lineCopier{w: cmd.ErrOrStderr()})
}

// lineCopier passes on whole lines that begin with "# "; others are not the
// node's.
type lineCopier struct {
	w    io.Writer
	rest []byte
}

func (l *lineCopier) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		n, line, err := bufio.ScanLines(l.rest, false)
		if err != nil || n == 0 {
			return len(p), nil
		}
		if bytes.HasPrefix(line, []byte("# ")) {
			fmt.Fprintf(l.w, "%s\n", line)
		}
		l.rest = l.rest[n:]
	}
}

// showObservation prints what `repo show` says of a mirror.
func showObservation(out io.Writer, r admin.RepoView) {
	if r.Observe == nil {
		return
	}
	for _, remote := range r.Observe.Remotes {
		as := map[string]string{cluster.CredentialKey: ", with a key", cluster.CredentialPassword: ", with a password", cluster.CredentialDevice: ", as the device"}
		fmt.Fprintf(out, "follows   %s%s\n", remote.URI, as[remote.Credential])
	}
	var refs []string
	for _, pattern := range r.Observe.Refs {
		refs = append(refs, string(pattern))
	}
	fmt.Fprintf(out, "mirrors   %s, every %v\n", strings.Join(refs, " "), r.Observe.Every)
	o := r.Observed
	if o == nil {
		fmt.Fprintln(out, "pulled    never")
		return
	}
	fmt.Fprintf(out, "pulled    %s on %s, next at %s\n", when(o.Succeeded), o.Device, when(o.Next))
	if o.Note != "" {
		fmt.Fprintf(out, "leaves    %s\n", o.Note)
	}
	if o.Failures > 0 {
		fmt.Fprintf(out, "failing   %d times, last at %s: %s\n", o.Failures, when(o.Tried), o.Error)
	}
}

// showMirrors prints what `status` says of mirrors.
func showMirrors(out io.Writer, st admin.Status) error {
	if st.Mirrors == 0 {
		return nil
	}
	fmt.Fprintf(out, "\n%d mirrors, %d failing\n", st.Mirrors, len(st.Failing))
	if len(st.Failing) == 0 {
		return nil
	}
	return table(out, "OBSERVED\tON\tFAILURES\tSUCCEEDED\tNEXT\t", func(row func(string, ...any)) {
		for _, r := range st.Failing {
			o := r.Observed
			row("%s\t%s\t%d\t%s\t%s\t%s", r.Name, o.Device, o.Failures, when(o.Succeeded), when(o.Next), o.Error)
		}
	})
}

func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format(time.DateTime)
}
