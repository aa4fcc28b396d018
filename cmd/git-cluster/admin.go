package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show the nodes, the journal, and the replicas that lag", Args: cobra.NoArgs}
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var st admin.Status
		if err := call(cmd, "status", struct{}{}, &st); err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		if *asJSON {
			return printJSON(out, st)
		}
		if st.Problem != "" {
			fmt.Fprintf(out, "cluster %s (%s), as %s last knew it\n\n", st.Cluster, st.ID, st.Node)
		} else {
			fmt.Fprintf(out, "cluster %s (%s), %d repositories, seen from %s\n\n", st.Cluster, st.ID, st.Repos, st.Node)
		}
		if err := table(out, "NODE\tSSH\tREGION\tUP\tJOURNAL\tENABLED", func(row func(string, ...any)) {
			for _, n := range st.Nodes {
				row("%s\t%s\t%s\t%v\t%s\t%v", n.Name, n.SSH, n.Region, yesNo(n.Up), n.Journal, n.Enabled)
			}
		}); err != nil {
			return err
		}
		if st.Problem != "" {
			return cluster.WithHint(errors.New(st.Problem), "start the nodes that are not up: the journal needs a majority of its voters")
		}
		if full := st.Full(); full != "" {
			fmt.Fprintf(out, "\nthe journal takes no writes: it is full on %s\n", full)
		}
		if err := showMirrors(out, st); err != nil {
			return err
		}
		showShortage(out, st.Short)
		if len(st.Behind) == 0 {
			fmt.Fprintln(out, "\nevery replica is up to date")
			return nil
		}
		fmt.Fprintln(out)
		return table(out, "BEHIND\tREPLICA\tVERSION\tOF\t", func(row func(string, ...any)) {
			for _, r := range st.Behind {
				for _, replica := range r.Replicas {
					row("%s\t%s\t%d\t%d\t%s", r.Name, replica.Device, replica.Version, r.Version, replica.Fenced)
				}
			}
		})
	}
	return cmd
}

// showShortage says what too few nodes mean for pushes.
func showShortage(out io.Writer, short *admin.Shortage) {
	if short == nil {
		return
	}
	fmt.Fprintf(out, "\nonly %d nodes are up that can hold a push:", short.Up)
	if short.Refused > 0 {
		fmt.Fprintf(out, " pushes to %d repositories, such as %s, are refused;", short.Refused, short.Names[0])
	}
	if short.Warned > 0 {
		fmt.Fprintf(out, " those to %d are accepted with a warning;", short.Warned)
	}
	fmt.Fprintln(out, " start the others")
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}

func repoCommand() *cobra.Command {
	return group("repo", "Create, list, show, rename, change, delete, import or mirror repositories",
		repoCreate(), repoList(), repoShow(), repoRename(), repoDelete(), repoSet(), repoImport(), repoObserve())
}

func repoCreate() *cobra.Command {
	cmd := &cobra.Command{Use: "create NAME", Short: "Create an empty repository", Args: cobra.ExactArgs(1)}
	var p admin.RepoCreate
	cmd.Flags().StringVar(&p.Format, "object-format", "sha1", "sha1 or sha256")
	cmd.Flags().StringVar(&p.Branch, "default-branch", "main", "branch that HEAD names")
	cmd.Flags().BoolVar(&p.Public, "public", false, "anybody may read it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p.Name = args[0]
		var made admin.RepoView
		if err := call(cmd, "repo.create", p, &made); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Created %s.\n", made.Name)
		return nil
	}
	return cmd
}

func repoList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the repositories you may read", Args: cobra.NoArgs}
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var all []admin.RepoView
		var p admin.RepoList
		for {
			var page admin.RepoPage
			if err := call(cmd, "repo.list", p, &page); err != nil {
				return err
			}
			all = append(all, page.Repos...)
			if p.After = page.Next; p.After == "" {
				break
			}
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), all)
		}
		return table(cmd.OutOrStdout(), "NAME\tVERSION\tFORMAT\tPUBLIC", func(row func(string, ...any)) {
			for _, r := range all {
				row("%s\t%d\t%s\t%v", r.Name, r.Version, r.Format, r.Public)
			}
		})
	}
	return cmd
}

func repoShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show a repository's settings and replicas", Args: cobra.ExactArgs(1)}
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var r admin.RepoView
		if err := call(cmd, "repo.show", admin.RepoName{Name: args[0]}, &r); err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		if *asJSON {
			return printJSON(out, r)
		}
		fmt.Fprintf(out, "name      %s\nid        %s\nversion   %d (digest %s)\nformat    %s\npublic    %v\ncreated   %s by %s\n",
			r.Name, r.ID, r.Version, r.Digest, r.Format, r.Public, r.Created.Format(time.RFC3339), r.CreatedBy)
		showObservation(out, r)
		fmt.Fprintln(out)
		return table(out, "REPLICA\tVERSION\tBEHIND\t", func(row func(string, ...any)) {
			for _, replica := range r.Replicas {
				row("%s\t%d\t%d\t%s", replica.Device, replica.Version, replica.Behind, replica.Fenced)
			}
		})
	}
	return cmd
}

func repoRename() *cobra.Command {
	return &cobra.Command{
		Use: "rename NAME NEW-NAME", Short: "Give a repository another name; no data moves", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, "repo.rename", admin.RepoRename{Name: args[0], To: args[1]}, nil)
		},
	}
}

func repoDelete() *cobra.Command {
	cmd := &cobra.Command{Use: "delete NAME", Short: "Delete a repository from every node", Args: cobra.ExactArgs(1)}
	yes := cmd.Flags().Bool("yes", false, "really delete it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !*yes {
			return cluster.WithHint(fmt.Errorf("this would delete %q, with its history, from every node; nothing was done", args[0]), "add --yes")
		}
		return call(cmd, "repo.delete", admin.RepoDelete{Name: args[0]}, nil)
	}
	return cmd
}

func repoSet() *cobra.Command {
	cmd := &cobra.Command{Use: "set NAME", Short: "Change a repository's default branch or settings", Args: cobra.ExactArgs(1)}
	var p admin.RepoSet
	cmd.Flags().StringVar(&p.Branch, "default-branch", "", "branch that HEAD names")
	public := cmd.Flags().Bool("public", false, "anybody may read it")
	denyForce := cmd.Flags().Bool("deny-non-fast-forwards", false, "refuse to rewrite branches")
	denyDeletes := cmd.Flags().Bool("deny-deletes", false, "refuse to delete refs")
	copies := cmd.Flags().Int("copies", 0, "on how many nodes a push must be before it is acknowledged; 0 is a majority")
	degraded := cmd.Flags().String("when-degraded", "refuse", "what becomes of a push if not so many can be reached: refuse or warn")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p.Name = args[0]
		for name, set := range map[string]func(){
			"public":                 func() { p.Public = public },
			"deny-non-fast-forwards": func() { p.DenyNonFF = denyForce },
			"deny-deletes":           func() { p.DenyDeletes = denyDeletes },
			"copies":                 func() { p.Copies = copies },
			"when-degraded":          func() { p.WhenDegraded = degraded },
		} {
			if cmd.Flags().Changed(name) {
				set()
			}
		}
		return call(cmd, "repo.set", p, nil)
	}
	return cmd
}

// repoImport creates a repository like the one at a path and pushes all its
// refs into it; Git shows the progress.
func repoImport() *cobra.Command {
	return &cobra.Command{
		Use:   "import NAME PATH",
		Short: "Bring in an existing repository with all its refs",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := cluster.ParseRepoName(args[0])
			if err != nil {
				return err
			}
			path, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			format, err := gitOutput(cmd, path, "rev-parse", "--show-object-format")
			if err != nil {
				return cluster.WithHint(fmt.Errorf("%s is no Git repository", path), "give the path of an existing repository, bare or not")
			}
			if shallow, err := gitOutput(cmd, path, "rev-parse", "--is-shallow-repository"); err == nil && shallow == "true" {
				return cluster.WithHint(fmt.Errorf("%s is a shallow clone: its history is not all there", path), "git fetch --unshallow there first")
			}
			create := admin.RepoCreate{Name: string(name), Format: format}
			if head, err := gitOutput(cmd, path, "symbolic-ref", "--quiet", "HEAD"); err == nil {
				create.Branch = strings.TrimPrefix(head, "refs/heads/")
			}
			if err := call(cmd, "repo.create", create, nil); err != nil {
				return err
			}
			if refs, err := gitOutput(cmd, path, "for-each-ref", "--count=1"); err != nil || refs == "" {
				fmt.Fprintf(cmd.OutOrStdout(), "Imported %s; it has no refs.\n", name)
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			target, env := "cluster::"+string(name), []string{"PATH=" + filepath.Dir(self) + string(os.PathListSeparator) + os.Getenv("PATH")}
			if wanted, _ := cmd.Flags().GetString("cluster"); wanted != "" {
				target = "cluster::" + wanted + ":" + string(name)
			}
			if local(cmd) {
				data, err := filepath.Abs(dataFlag(cmd))
				if err != nil {
					return err
				}
				target = "ssh://node/" + string(name)
				env = append(env, "GIT_SSH_COMMAND="+quote(self)+" local-transport --data "+quote(data), "GIT_SSH_VARIANT=simple")
			}
			if err := runGit(cmd, env, "-C", path, "push", "--progress", target, "+refs/*:refs/*"); err != nil {
				// What came over stays; a repository that nothing came to goes again.
				if cleanErr := call(cmd, "repo.delete", admin.RepoDelete{Name: string(name), IfEmpty: true}, nil); cleanErr != nil {
					return fmt.Errorf("import %s: %w", name, errors.Join(err, cleanErr))
				}
				return fmt.Errorf("import %s: git push failed, as it says above", name)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Imported %s.\n", name)
			return nil
		},
	}
}

// gitOutput asks Git about the person's own repository at path.
func gitOutput(cmd *cobra.Command, path string, args ...string) (string, error) {
	c := gitcmd.Command{Args: append([]string{"git", "-C", path}, args...), Env: os.Environ()}
	out, err := new(gitexec.Runner).Output(cmd.Context(), c, nil)
	return strings.TrimSpace(string(out)), err
}

func userCommand() *cobra.Command {
	add := &cobra.Command{Use: "add NAME", Short: "Add a user", Args: cobra.ExactArgs(1)}
	keys := add.Flags().StringSlice("key", nil, "file with a public key of the user, or - for standard input; repeatable")
	isAdmin := add.Flags().Bool("admin", false, "the user may do everything")
	add.RunE = func(cmd *cobra.Command, args []string) error {
		p := admin.UserAdd{User: cluster.UserName(args[0]), Admin: *isAdmin}
		for _, file := range *keys {
			key, err := readKey(file)
			if err != nil {
				return err
			}
			p.Keys = append(p.Keys, key)
		}
		return call(cmd, "user.add", p, nil)
	}
	list := &cobra.Command{Use: "list", Short: "List the users", Args: cobra.NoArgs}
	asJSON := list.Flags().Bool("json", false, "print JSON")
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		var users []cluster.User
		if err := call(cmd, "user.list", struct{}{}, &users); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), users)
		}
		return table(cmd.OutOrStdout(), "USER\tADMIN\tKEYS", func(row func(string, ...any)) {
			for _, u := range users {
				row("%s\t%v\t%d", u.Name, u.Admin, len(u.Keys))
			}
		})
	}
	remove := &cobra.Command{
		Use: "remove NAME", Short: "Remove a user and its grants", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, "user.remove", admin.UserName{User: cluster.UserName(args[0])}, nil)
		},
	}
	return group("user", "Add, list or remove users, and their access tokens", add, list, remove, userTokenCommand())
}

func keyCommand() *cobra.Command {
	return group("key", "Add or remove a user's SSH keys",
		&cobra.Command{
			Use: "add USER FILE", Short: "Add a public key from a file, or - for standard input", Args: cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error {
				key, err := readKey(args[1])
				if err != nil {
					return err
				}
				return call(cmd, "key.add", admin.KeyChange{User: cluster.UserName(args[0]), Key: key}, nil)
			},
		},
		&cobra.Command{
			Use: "remove USER KEY", Short: "Remove a key, given by its file, its SHA256 fingerprint or its comment", Args: cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error {
				key := args[1]
				if text, err := readKey(key); err == nil {
					key = text
				}
				return call(cmd, "key.remove", admin.KeyChange{User: cluster.UserName(args[0]), Key: key}, nil)
			},
		})
}

func grantCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "grant SUBJECT ROLE PATTERN",
		Short:   "Give a user, device/NAME or @all a role (read, write, admin) on repositories",
		Example: "  git cluster grant alice write team/project\n  git cluster grant @all read '*'\n  git cluster grant bob admin 'bob/*'     # bob may create repositories there",
		Args:    cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, "grant", admin.GrantChange{Subject: args[0], Role: args[1], Pattern: args[2]}, nil)
		},
	}
}

func revokeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "revoke SUBJECT PATTERN", Short: "Take back what a subject was granted on a pattern", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, "revoke", admin.GrantChange{Subject: args[0], Pattern: args[1]}, nil)
		},
	}
}

func grantsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "grants", Short: "List all grants", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var grants []cluster.Grant
			if err := call(cmd, "grant.list", struct{}{}, &grants); err != nil {
				return err
			}
			return table(cmd.OutOrStdout(), "SUBJECT\tROLE\tPATTERN", func(row func(string, ...any)) {
				for _, g := range grants {
					row("%s\t%s\t%s", g.Subject, g.Role, g.Pattern)
				}
			})
		},
	}
}

// readKey reads a public key from a file or, for "-", from standard input.
func readKey(path string) (string, error) {
	var data []byte
	var err error
	if path == "-" {
		data, err = io.ReadAll(io.LimitReader(os.Stdin, 64<<10))
	} else {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return "", err
	}
	if bytes.Contains(data, []byte("PRIVATE KEY")) {
		return "", cluster.WithHint(errors.New("that is a private key; it was not sent anywhere"), "give the .pub file beside it")
	}
	return strings.TrimSpace(string(data)), nil
}
