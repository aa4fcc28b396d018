package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"gitcluster/internal/client"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/setup"
	"gitcluster/internal/sshclient"
)

// A useRequest is the flags of `use`.
type useRequest struct {
	name, region, identity, fingerprint, lfs string
	asDefault, submodules, yes               bool
}

func useCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "use ADDRESS",
		Short: "Set this account up for the cluster that the node at ADDRESS (host or host:port) belongs to",
		Long: "use shows the fingerprint of the node's host key, logs in, asks the node for all nodes of its cluster, and adds the cluster to the client configuration. " +
			"What is there already stays as it is. To do it again adds what is missing, such as new nodes or a --region.",
		Example: "  git cluster use repo001.example.com\n  git clone cluster::team/project",
		Args:    cobra.ExactArgs(1),
	}
	var q useRequest
	f := cmd.Flags()
	f.StringVar(&q.name, "name", "", "what to call the cluster here, as in cluster::NAME:repo (default: its own name)")
	f.BoolVar(&q.asDefault, "default", false, "make it the cluster of cluster::repo; the first one is that anyway")
	f.StringVar(&q.region, "region", "", "region this machine is in; nodes of that region are preferred")
	f.StringVar(&q.identity, "identity", "", "private key file to log in with, and to name in the configuration")
	f.StringVar(&q.fingerprint, "fingerprint", "", "what the host key's fingerprint must be (SHA256:…), instead of being asked")
	f.BoolVarP(&q.yes, "yes", "y", false, "take the host key that is shown, without being asked")
	f.BoolVar(&q.submodules, "submodules", false, "let Git fetch submodules by cluster:: addresses: sets protocol.cluster.allow=always")
	f.StringVar(&q.lfs, "lfs", "", "URL of an LFS server for the cluster's repositories; the nodes themselves serve no LFS")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return use(cmd, args[0], q) }
	return cmd
}

func use(cmd *cobra.Command, address string, q useRequest) error {
	seed, err := setup.ParseSeed(address)
	if err != nil {
		return err
	}
	if q.lfs != "" {
		if err := setup.CheckLFS(q.lfs); err != nil {
			return err
		}
	}
	path := config.ClientPath()
	conf, err := config.LoadClient(path)
	if errors.Is(err, fs.ErrNotExist) {
		conf, err = &config.Client{}, nil
	}
	if err != nil {
		return err
	}
	if q.identity != "" {
		if seed.Identity, err = filepath.Abs(q.identity); err != nil {
			return err
		}
	}
	server, err := seed.Reach(cmd.Context(), os.Getenv)
	if err != nil {
		return err
	}
	if err := confirm(cmd, conf, &server, q); err != nil {
		return err
	}
	nodes, err := server.Learn(cmd.Context(), os.Getenv)
	if err != nil {
		return err
	}
	c, err := server.Cluster(nodes, q.region)
	if err != nil {
		return err
	}
	if q.name == "" {
		q.name = nodes.Name
	}
	if q.identity == "" && conf.Clusters[q.name] != nil {
		c.Identity = "" // found, and not asked for
	}
	if _, err := addCluster(cmd, path, q.name, c, nodes, q.asDefault); err != nil {
		return err
	}
	return gitSettings(cmd, path, q)
}

// confirm makes sure that the host key is the right one: the configuration has
// it, or a person says so. A server that the configuration has is logged in to as
// that says.
func confirm(cmd *cobra.Command, conf *config.Client, server *setup.Server, q useRequest) error {
	out := cmd.OutOrStdout()
	if server.Program != nil {
		if q.fingerprint != "" {
			return cluster.WithHint(fmt.Errorf("the host key of %s cannot be compared with --fingerprint: %w", server.Host, server.Program),
				"do without --fingerprint, and let that program check the host key")
		}
		fmt.Fprintf(out, "Connected to %s; the host key was checked there (%v).\n", server.Host, server.Program)
		return nil
	}
	shown := server.Fingerprint()
	known := false
	for _, c := range conf.Clusters {
		for _, n := range c.Nodes {
			key, _ := n.Key() // checked when the file was read
			same := key != nil && ssh.FingerprintSHA256(key) == shown
			if n.Addr() == server.Host.Dial() && key != nil && !same {
				return cluster.WithHint(fmt.Errorf("%w: the server has %s, the configuration %s", sshclient.ErrHostKeyChanged, shown, ssh.FingerprintSHA256(key)),
					"if the server's operator confirms the new key, put it into "+config.ClientPath()+"; else somebody may be listening in between")
			}
			if !same {
				continue
			}
			known = true
			if server.Identity == "" {
				server.Identity = c.Identity
			}
			if server.User == "" {
				server.User = c.User
			}
		}
	}
	if q.fingerprint != "" {
		if strings.TrimPrefix(q.fingerprint, "SHA256:") != strings.TrimPrefix(shown, "SHA256:") {
			return fmt.Errorf("%s shows the host key %s, not the one of --fingerprint", server.Host.Dial(), shown)
		}
		return nil
	}
	fmt.Fprintf(out, "%s shows the host key %s.\n", server.Host.Dial(), shown)
	if known || q.yes {
		return nil
	}
	fmt.Fprint(out, "`git cluster init` and `join` print the right one on each node, and its operator knows it.\nIs that the one? (yes/no) ")
	answer, err := answerLine(cmd.Context(), cmd.InOrStdin())
	if answer == "yes" || answer == "y" {
		return nil
	}
	fmt.Fprintln(out)
	if err != nil && answer == "" {
		return cluster.WithHint(errors.New("nobody is there to compare the host key"), "give the right one as --fingerprint SHA256:…, or accept any with --yes")
	}
	return errors.New("the host key was not accepted, and nothing was changed")
}

// answerLine reads a line, and gives up when the context ends.
func answerLine(ctx context.Context, in io.Reader) (string, error) {
	type line struct {
		text string
		err  error
	}
	read := make(chan line, 1)
	go func() {
		text, err := bufio.NewReader(io.LimitReader(in, 1000)).ReadString('\n')
		read <- line{strings.ToLower(strings.TrimSpace(text)), err}
	}()
	select {
	case l := <-read:
		return l.text, l.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// addCluster adds a cluster to the client configuration, says so, and returns the form
// of its addresses.
func addCluster(cmd *cobra.Command, path, name string, c *config.Cluster, nodes client.Nodes, asDefault bool) (form string, err error) {
	added, err := config.Add(path, name, c, asDefault)
	var manual *config.AddError
	switch {
	case errors.As(err, &manual):
		fmt.Fprintf(cmd.OutOrStdout(), "%s\n", manual.Text)
		return "", cluster.WithHint(err, "add the lines above to it by hand")
	case errors.Is(err, config.ErrOtherCluster):
		return "", cluster.WithHint(err, "if it is another one, give it a name of its own: --name NAME")
	case err != nil:
		return "", err
	}
	tellUse(cmd.OutOrStdout(), path, name, len(c.Nodes), added)
	if len(nodes.Nodes) > 0 {
		if err := client.Remember(cmd.Context(), name, nodes.NodeList, os.Getenv); err != nil {
			return "", err
		}
	}
	conf, err := config.LoadClient(path)
	if err != nil {
		return "", err
	}
	if usual, _, _ := conf.Find(""); usual == name {
		return "cluster::REPOSITORY", nil
	}
	return "cluster::" + name + ":REPOSITORY", nil
}

func tellUse(out io.Writer, path, name string, nodes int, added config.Addition) {
	switch {
	case added.New && nodes == 1:
		fmt.Fprintf(out, "Added the cluster %q with one node to %s.\n", name, path)
	case added.New:
		fmt.Fprintf(out, "Added the cluster %q with %d nodes to %s.\n", name, nodes, path)
	case len(added.Nodes) > 0:
		fmt.Fprintf(out, "Added to the cluster %q in %s: %s.\n", name, path, strings.Join(added.Nodes, ", "))
	case added.Default == "" && len(added.Set) == 0:
		fmt.Fprintf(out, "%s has all %d nodes of the cluster %q already.\n", path, nodes, name)
	}
	if len(added.Set) > 0 {
		fmt.Fprintf(out, "Set for the cluster %q in %s: %s.\n", name, path, strings.Join(added.Set, ", "))
	}
	for _, line := range added.Kept {
		fmt.Fprintf(out, "%s has %s for the cluster %q already, which stays.\n", path, line, name)
	}
	if added.Default != "" {
		fmt.Fprintf(out, "cluster::REPOSITORY means the cluster %q.\n", added.Default)
	}
}

// gitSettings changes what the request asks for in the account's own Git
// configuration, and nothing else there.
func gitSettings(cmd *cobra.Command, path string, q useRequest) error {
	conf, err := config.LoadClient(path)
	if err != nil {
		return err
	}
	file, bare, err := setup.WriteLFS(filepath.Dir(path), q.name, q.lfs, slices.Collect(maps.Keys(conf.Clusters)))
	if err != nil {
		return fmt.Errorf("configure LFS: %w", err)
	}
	if q.lfs != "" {
		if file, err = filepath.Abs(file); err != nil {
			return err
		}
		if err := runGit(cmd, nil, "config", "--global", "--fixed-value", "--replace-all", "include.path", file, file); err != nil {
			return err
		}
	}
	out := cmd.OutOrStdout()
	form := "cluster::" + q.name + ":REPOSITORY"
	switch name, _, _ := conf.Find(""); {
	case file == "":
	case bare:
		fmt.Fprintf(out, "git-lfs asks the server in %s for repositories of this cluster.\n", file)
	case q.lfs != "":
		fmt.Fprintf(out, "git-lfs asks %s for repositories whose address is %s; with several clusters the name has to be there.\n", q.lfs, form)
	case name != "":
		fmt.Fprintf(out, "With several clusters, git-lfs finds its server by addresses that name the cluster: cluster::%s:REPOSITORY.\n", name)
	}
	if q.submodules {
		if err := runGit(cmd, nil, "config", "--global", "protocol.cluster.allow", "always"); err != nil {
			return err
		}
		fmt.Fprintln(out, "Git follows submodules to cluster:: addresses.")
	}
	if name, _, _ := conf.Find(""); name == q.name {
		form = "cluster::REPOSITORY"
	}
	fmt.Fprintf(out, "Try it: git clone %s\n", form)
	return nil
}
