package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"gitcluster/internal/address"
	"gitcluster/internal/admin"
	"gitcluster/internal/client"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/credential"
	"gitcluster/internal/node"
	"gitcluster/internal/setup"
)

func deviceCommand() *cobra.Command {
	return group("device", "Show and change what the cluster knows of its machines",
		deviceEnroll(), deviceList(), deviceShow(), deviceSet(), deviceRemove(),
		deviceSwitch("enable", "Let a device in again", func(p *admin.DeviceSet, yes *bool) { p.Enabled = yes }, true),
		deviceSwitch("disable", "Refuse a device, on connections it has open, too", func(p *admin.DeviceSet, yes *bool) { p.Enabled = yes }, false),
		deviceSwitch("trust", "Let a device's key count", func(p *admin.DeviceSet, yes *bool) { p.Trusted = yes }, true),
		deviceSwitch("untrust", "Let a device's key count for nothing", func(p *admin.DeviceSet, yes *bool) { p.Trusted = yes }, false))
}

func deviceEnroll() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "enroll SEED",
		Short:   "Make this machine a device of the cluster that the node at SEED (host:port) belongs to",
		Long:    "enroll gives this machine a key and an identity of its own, so that with PHABRICATOR_AS_DEVICE=1 Git fetches as the machine, without a user, and adds the cluster to the client configuration as `git cluster use` does. Key and identity are kept in $GIT_CLUSTER_DEVICE_DIR, or " + credential.DefaultDir + ".",
		Example: "  git cluster token create --device              # on a node, or as an administrator\n  git cluster device enroll repo001.example.com:2222 --token - --name ci7",
		Args:    cobra.ExactArgs(1),
	}
	token := cmd.Flags().String("token", "", tokenHelp)
	name := cmd.Flags().String("name", "", "name of this device (default: the host's)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		device, err := nameOrHost(*name)
		if err != nil {
			return err
		}
		secret, err := readToken(cmd, *token)
		if err != nil {
			return err
		}
		dir := credential.Dir(os.Getenv)
		host, err := address.ParseHost(args[0])
		if err != nil {
			return err
		}
		id, key, err := node.Enroll(cmd.Context(), args[0], secret, dir, device)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Enrolled as device %q of the cluster %q; its identity is in %s.\n", id.Name, id.Cluster, dir)
		form, err := configureDevice(cmd, setup.Server{Host: host, Key: key}, id)
		if err != nil {
			return fmt.Errorf("the device is enrolled; add its cluster to the client configuration: %w", err)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Try it: %s=1 git ls-remote %s\n", credential.EnvAsDevice, form)
		return nil
	}
	return cmd
}

// configureDevice adds the cluster of a node to the client configuration, and
// returns the form of its addresses. Where the device is not let in yet, because an
// administrator has to trust its network first, that one node is all there is to add; it
// tells of the others when the device comes to it.
func configureDevice(cmd *cobra.Command, server setup.Server, id *credential.Identity) (form string, err error) {
	nodes, err := server.LearnAsDevice(cmd.Context(), os.Getenv)
	var c *config.Cluster
	if err == nil {
		c, err = server.Cluster(nodes, "")
		if err != nil {
			return "", err
		}
	} else {
		fmt.Fprintf(cmd.ErrOrStderr(), "git-cluster: the cluster does not let this device in yet: %v\n", err)
		nodes = client.Nodes{Name: id.Cluster}
		c = server.Alone()
	}
	form, err = addCluster(cmd, config.ClientPath(), nodes.Name, c, nodes, false)
	if errors.Is(err, config.ErrOtherCluster) {
		err = cluster.WithHint(err, fmt.Sprintf("if it is another one, give it a name of its own: %s=1 git cluster use %s --name NAME", credential.EnvAsDevice, server.Host))
	}
	return form, err
}

func deviceList() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the devices", Args: cobra.NoArgs}
	asJSON := list.Flags().Bool("json", false, "print JSON")
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		var devices []cluster.Device
		if err := call(cmd, "device.list", struct{}{}, &devices); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), devices)
		}
		return table(cmd.OutOrStdout(), "DEVICE\tNODE\tSSH\tREGION\tENABLED\tTRUSTED", func(row func(string, ...any)) {
			for _, d := range devices {
				row("%s\t%v\t%s\t%s\t%v\t%v", d.Name, d.Node, d.SSH, d.Region, d.Enabled, d.Trusted)
			}
		})
	}
	return list
}

func deviceShow() *cobra.Command {
	show := &cobra.Command{Use: "show NAME", Short: "Show a device", Args: cobra.ExactArgs(1)}
	asJSON := show.Flags().Bool("json", false, "print JSON")
	show.RunE = func(cmd *cobra.Command, args []string) error {
		var d admin.DeviceView
		if err := call(cmd, "device.show", admin.DeviceName{Device: cluster.DeviceName(args[0])}, &d); err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		if *asJSON {
			return printJSON(out, d)
		}
		fmt.Fprintf(out, "name      %s\nkey       %s\nnode      %v\nssh       %s\nhttp      %s\nregion    %s\nenabled   %v\ntrusted   %v\nwritable  %v\njoined    %s\n",
			d.Name, d.Fingerprint, d.Node, d.SSH, d.HTTP, d.Region, d.Enabled, d.Trusted, d.Writable, d.Joined.Format(time.RFC3339))
		return nil
	}
	return show
}

func deviceSet() *cobra.Command {
	cmd := &cobra.Command{Use: "set NAME", Short: "Change a device's region or rights, or a node's address", Args: cobra.ExactArgs(1)}
	region := cmd.Flags().String("region", "", "region; near replicas are preferred")
	ssh := cmd.Flags().String("ssh", "", "host:port by which others reach the node's SSH front")
	actsAs := cmd.Flags().Bool("act-as-users", false, "the device may act as any user, by a first argument @USER; nodes may anyway")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p := admin.DeviceSet{Device: cluster.DeviceName(args[0])}
		if cmd.Flags().Changed("region") {
			p.Region = region
		}
		if cmd.Flags().Changed("ssh") {
			p.SSH = ssh
		}
		if cmd.Flags().Changed("act-as-users") {
			p.ActsAs = actsAs
		}
		if p.Region == nil && p.SSH == nil && p.ActsAs == nil {
			return fmt.Errorf("nothing to change: give --region, --ssh or --act-as-users")
		}
		return call(cmd, "device.set", p, nil)
	}
	return cmd
}

// deviceSwitch is a command that turns one property of a device on or off.
func deviceSwitch(use, short string, put func(*admin.DeviceSet, *bool), to bool) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := admin.DeviceSet{Device: cluster.DeviceName(args[0])}
			put(&p, &to)
			return call(cmd, "device.set", p, nil)
		},
	}
}

func tokenCommand() *cobra.Command {
	create := &cobra.Command{
		Use: "create", Short: "Make a token that admits one machine, once", Args: cobra.NoArgs,
		Long: "create prints a token, on its last line, with which one machine can `git cluster join` or, with --device, `git cluster device enroll`. Whoever has it can do so; it is not shown again.",
	}
	device := create.Flags().Bool("device", false, "admit a device that is no node: it may read, and serves nothing")
	valid := create.Flags().Duration("valid", time.Hour, "how long the token is good")
	create.RunE = func(cmd *cobra.Command, _ []string) error {
		var t admin.Token
		kind := "node"
		if *device {
			kind = "device"
		}
		if err := call(cmd, "token.create", admin.TokenCreate{Kind: kind, Valid: *valid}, &t); err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "This token admits one %s until %s:\n", kind, t.Expires.Local().Format(time.DateTime))
		fmt.Fprintln(cmd.OutOrStdout(), t.Token)
		return nil
	}
	return group("token", "Make tokens by which machines join", create)
}
