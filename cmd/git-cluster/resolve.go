package main

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gitcluster/internal/address"
	"gitcluster/internal/client"
	"gitcluster/internal/cluster"
	"gitcluster/internal/replica"
)

// A resolution is the replicas of an address, the best first.
type resolution struct {
	Address  string            `json:"address"`
	Replicas []resolvedReplica `json:"replicas"`
}

type resolvedReplica struct {
	Name    string  `json:"name"`
	Address string  `json:"address"` // host:port
	Region  string  `json:"region,omitempty"`
	Connect float64 `json:"connect_ms,omitempty"` // how long a connection took
	Failed  bool    `json:"failed,omitempty"`     // not long ago
	Pinned  bool    `json:"pinned,omitempty"`
	Learned bool    `json:"learned,omitempty"` // not from the configuration
	Why     string  `json:"why"`
	SSH     string  `json:"ssh"` // the repository's address without a helper
	HTTPS   string  `json:"https,omitempty"`
}

func resolveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resolve cluster::REPOSITORY",
		Short: "Show the replicas that Git would be sent to, and their plain addresses",
		Long: "resolve lists the replicas of an address in the order in which git-remote-cluster would try them now, and why, with the ssh:// and https:// addresses for programs that know no remote helpers. " +
			"It connects to none of them.",
		Args: cobra.ExactArgs(1),
	}
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := resolve(cmd, args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), r)
		}
		return r.print(cmd.OutOrStdout())
	}
	return cmd
}

// repositoryAddress reads an address of a repository; a plain name is one of the
// cluster of --cluster.
func repositoryAddress(cmd *cobra.Command, text string) (address.Address, error) {
	a, err := address.Parse(text)
	if err != nil {
		return a, err
	}
	if wanted, _ := cmd.Flags().GetString("cluster"); wanted != "" {
		if a.Hosts != nil || a.Cluster != "" && a.Cluster != wanted {
			return a, cluster.WithHint(fmt.Errorf("%s is not of the cluster %q of --cluster", a, wanted), "leave out one of the two")
		}
		a.Cluster = wanted
	}
	return a, nil
}

func resolve(cmd *cobra.Command, text string) (resolution, error) {
	a, err := repositoryAddress(cmd, text)
	if err != nil {
		return resolution{}, err
	}
	all, err := client.Replicas(cmd.Context(), a.String(), os.Getenv)
	if err != nil {
		return resolution{}, err
	}
	r := resolution{Address: a.String()}
	now := time.Now()
	for _, c := range all {
		if c.User, err = client.LoginName(c, os.Getenv); err != nil {
			return resolution{}, err
		}
		ssh, https := plainAddresses(c, a.Path)
		r.Replicas = append(r.Replicas, resolvedReplica{
			Name: c.Name, Address: c.Addr, Region: c.Region, Connect: float64(c.Answers.Microseconds()) / 1000,
			Failed: now.Before(c.AvoidUntil), Pinned: c.Pinned, Learned: c.Learned(), Why: c.Why(now), SSH: ssh, HTTPS: https,
		})
	}
	return r, nil
}

// plainAddresses are the repository's addresses on one replica for a program
// without the helper. https is "" where the node's is not known, or the path is
// one of the file system.
func plainAddresses(c replica.Candidate, path string) (ssh, https string) {
	host, port, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return "", ""
	}
	at := host
	if strings.Contains(host, ":") {
		at = "[" + host + "]"
	}
	if port != "22" {
		at = net.JoinHostPort(host, port)
	}
	clean := strings.TrimPrefix(path, "/")
	s := url.URL{Scheme: "ssh", User: url.User(c.User), Host: at, Path: "/" + clean}
	if c.HTTP != "" && !strings.HasPrefix(path, "~") {
		https = (&url.URL{Scheme: "https", Host: strings.TrimSuffix(c.HTTP, ":443"), Path: "/" + strings.TrimSuffix(clean, ".git") + ".git"}).String()
	}
	return s.String(), https
}

func (r resolution) print(out io.Writer) error {
	if err := table(out, "REPLICA\tADDRESS\tWHY", func(row func(string, ...any)) {
		for _, c := range r.Replicas {
			row("%s\t%s\t%s", c.Name, c.Address, c.Why)
		}
	}); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, c := range r.Replicas {
		fmt.Fprintln(out, c.SSH)
	}
	for _, c := range r.Replicas {
		if c.HTTPS != "" {
			fmt.Fprintln(out, c.HTTPS)
		}
	}
	return nil
}
