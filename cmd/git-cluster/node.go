package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/localsocket"
	"gitcluster/internal/node"
	"gitcluster/internal/session"
	"gitcluster/internal/version"
)

// nodeFlags are those that init and join share.
func nodeFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("name", "", "name of this node (default: the host's)")
	f.String("region", "", "region of this node; near replicas are preferred")
	f.String("ssh", ":2222", "address the SSH front listens on")
	f.String("http", "", "address the HTTPS front listens on, or off (default: the host of --ssh, port 8443)")
	f.String("tls-cert", "", "PEM file with the HTTPS front's certificate; it is read again when it changes (default: the node makes one)")
	f.String("tls-key", "", "PEM file with the key of --tls-cert")
	f.String("advertise", "", "host by which other machines reach this node; needed where --ssh names none")
	f.String("journal-peer", "", "address of the embedded journal server for other nodes (default: the host of --ssh, port 2380)")
	f.String("journal-client", "", "address of the embedded journal server for clients (default: the host of --ssh, port 2379)")
}

func settings(cmd *cobra.Command) (node.Settings, error) {
	f := cmd.Flags()
	get := func(name string) string { v, _ := f.GetString(name); return v }
	s := node.Settings{Dir: dataFlag(cmd), Region: get("region"), SSH: get("ssh"), Advertise: get("advertise"), Peer: get("journal-peer"), Client: get("journal-client")}
	var err error
	if s.Name, err = nameOrHost(get("name")); err != nil {
		return s, err
	}
	host, _, err := net.SplitHostPort(s.SSH)
	if err != nil {
		return s, fmt.Errorf("--ssh %q: use host:port", s.SSH)
	}
	if s.HTTP, s.Cert, s.Key, err = httpFlags(cmd, host); err != nil {
		return s, err
	}
	addr, err := netip.ParseAddr(host)
	if s.Advertise == "" && (host == "" || err == nil && addr.IsUnspecified()) {
		return s, cluster.WithHint(errors.New("--ssh names no host by which other machines could reach this node"), "add --advertise HOST")
	}
	if err != nil {
		host = "0.0.0.0" // the journal's server binds addresses, not names
		if s.Advertise == "" {
			s.Advertise, _, _ = net.SplitHostPort(s.SSH)
		}
	}
	if s.Peer == "" {
		s.Peer = net.JoinHostPort(host, "2380")
	}
	if s.Client == "" {
		s.Client = net.JoinHostPort(host, "2379")
	}
	return s, nil
}

// httpFlags are those of the HTTPS front; sshHost is where the SSH front listens.
func httpFlags(cmd *cobra.Command, sshHost string) (listen, cert, key string, err error) {
	f := cmd.Flags()
	listen, _ = f.GetString("http")
	if !f.Changed("http") {
		listen = net.JoinHostPort(sshHost, "8443")
	} else if listen == "off" {
		listen = ""
	}
	if listen != "" {
		if _, _, err := net.SplitHostPort(listen); err != nil {
			return "", "", "", fmt.Errorf("--http %q: use host:port, or off", listen)
		}
	}
	cert, _ = f.GetString("tls-cert")
	key, _ = f.GetString("tls-key")
	if (cert == "") != (key == "") {
		return "", "", "", errors.New("--tls-cert and --tls-key go together")
	}
	for _, file := range []*string{&cert, &key} {
		if *file != "" {
			if *file, err = filepath.Abs(*file); err != nil {
				return "", "", "", err
			}
		}
	}
	return listen, cert, key, nil
}

// nameOrHost is the name a machine was given, or that of its host.
func nameOrHost(name string) (cluster.DeviceName, error) {
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return "", err
		}
		name, _, _ = strings.Cut(host, ".")
	}
	return cluster.ParseDeviceName(name)
}

const tokenHelp = "the last line that 'git cluster token create' printed; - reads it from standard input, which keeps it out of the process list"

// readToken is the token of --token.
func readToken(cmd *cobra.Command, flag string) (string, error) {
	if flag == "-" {
		if _, err := fmt.Fscanln(cmd.InOrStdin(), &flag); err != nil {
			return "", fmt.Errorf("read the token: %w", err)
		}
	}
	if flag == "" {
		return "", cluster.WithHint(errors.New("--token is missing"), "`git cluster token create` on a node prints one")
	}
	return flag, nil
}

func initCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "init",
		Short:   "Make a new cluster with this machine as its first node",
		Example: "  git cluster init --name repo001 --advertise repo001.example.com --admin alice --admin-key ~/.ssh/id_ed25519.pub\n  git cluster serve",
		Args:    cobra.NoArgs,
	}
	nodeFlags(cmd)
	name := cmd.Flags().String("cluster-name", "main", "name of the cluster")
	user := cmd.Flags().String("admin", "", "first administrator")
	keyFile := cmd.Flags().String("admin-key", "", "file with the administrator's public key")
	trusted := cmd.Flags().StringSlice("trusted-network", nil, "network (CIDR) from which device keys count; repeatable (default: loopback and private ranges)")
	endpoints := cmd.Flags().StringSlice("journal-endpoint", nil, "client address of an existing etcd to use instead of an embedded one; repeatable")
	tls := cmd.Flags().String("journal-tls", "", "folder with ca.pem, node.pem and node-key.pem for --journal-endpoint")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := settings(cmd)
		if err != nil {
			return err
		}
		for _, network := range *trusted {
			if _, err := netip.ParsePrefix(network); err != nil {
				return fmt.Errorf("--trusted-network: %w", err)
			}
		}
		s.Endpoints, s.TLS = *endpoints, *tls
		i := node.InitSettings{Settings: s, Cluster: *name, Admin: cluster.UserName(*user), Trusted: *trusted}
		if (*user == "") != (*keyFile == "") {
			return errors.New("--admin and --admin-key go together")
		}
		if *keyFile != "" {
			if i.AdminKey, err = readKey(*keyFile); err != nil {
				return err
			}
		}
		if err := node.Init(cmd.Context(), i); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Made the cluster %q with node %q in %s.\n", *name, s.Name, s.Dir)
		return next(cmd, s.Dir)
	}
	return cmd
}

func joinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "join SEED",
		Short:   "Make this machine a further node of the cluster that the node at SEED (host:port) belongs to",
		Example: "  git cluster token create                      # on a node\n  git cluster join repo001.example.com:2222 --token - --advertise repo002.example.com\n  git cluster serve",
		Args:    cobra.ExactArgs(1),
	}
	nodeFlags(cmd)
	tls := cmd.Flags().String("journal-tls", "", "folder with ca.pem, node.pem and node-key.pem, where the cluster's journal is an etcd of its own")
	token := cmd.Flags().String("token", "", tokenHelp)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := settings(cmd)
		if err != nil {
			return err
		}
		s.TLS = *tls
		secret, err := readToken(cmd, *token)
		if err != nil {
			return err
		}
		if err := node.Join(cmd.Context(), args[0], secret, s); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Joined as node %q in %s.\n", s.Name, s.Dir)
		return next(cmd, s.Dir)
	}
	return cmd
}

// next says what to do with a new node, and the host key and the certificate that
// its clients will be shown.
func next(cmd *cobra.Command, dir string) error {
	public, err := os.ReadFile(filepath.Join(dir, "device", "id_ed25519.pub"))
	if err != nil {
		return err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(public)
	if err != nil {
		return err
	}
	web, err := node.Web(dir)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "Its host key: %s\nIts fingerprint: %s\n", strings.Join(strings.Fields(string(public))[:2], " "), ssh.FingerprintSHA256(key))
	if web != nil {
		fmt.Fprintf(out, "Its web address: %s\nIts certificate: %s, SHA-256 %s\n", web.URL, web.Cert, web.Fingerprint)
		if web.SelfSigned {
			fmt.Fprintf(out, "  The node made it. With a copy of the file, Git trusts it by: git config --global http.%s.sslCAInfo FILE\n", web.URL)
		}
	}
	fmt.Fprintf(out, "Start it: git cluster serve --data %s\n", quote(dir))
	return nil
}

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run this machine's node in the foreground",
		Long:  "serve runs the node of --data until SIGINT or SIGTERM; then it finishes what was acknowledged, refuses the rest, and ends.",
		Args:  cobra.NoArgs,
	}
	format := cmd.Flags().String("log-format", "text", "text or json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var handler slog.Handler = slog.NewTextHandler(cmd.ErrOrStderr(), nil)
		if *format == "json" {
			handler = slog.NewJSONHandler(cmd.ErrOrStderr(), nil)
		}
		n, err := node.Open(cmd.Context(), dataFlag(cmd), version.String(), slog.New(handler))
		if err != nil {
			return err
		}
		return n.Serve(cmd.Context(), func() {
			// Outside systemd there is nobody to tell, and that is no error.
			daemon.SdNotify(false, daemon.SdNotifyReady)
		})
	}
	return cmd
}

// shellCommand is the forced command of an OpenSSH server in front of the node.
func shellCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shell",
		Short: "Serve one SSH session of an ordinary sshd (forced command)",
		Long:  "shell is what sshd runs for a connection whose key `git cluster authorized-keys` has named. It passes $SSH_ORIGINAL_COMMAND and the streams on to the node of --data.",
		Args:  cobra.NoArgs,
	}
	user := cmd.Flags().String("user", "", "the user whose key was used")
	device := cmd.Flags().String("device", "", "the device whose key was used")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if (*user == "") == (*device == "") {
			return errors.New("one of --user and --device must be given")
		}
		request := localsocket.SessionRequest{
			Command: os.Getenv("SSH_ORIGINAL_COMMAND"),
			Env:     map[string]string{},
			As:      cluster.Identity{User: cluster.UserName(*user), Device: cluster.DeviceName(*device)},
		}
		for name := range session.AllowedEnv {
			if value := os.Getenv(name); value != "" {
				request.Env[name] = value
			}
		}
		// "client-address client-port server-address server-port"
		if from := strings.Fields(os.Getenv("SSH_CONNECTION")); len(from) == 4 {
			request.Remote, _ = netip.ParseAddrPort(net.JoinHostPort(from[0], from[1]))
		}
		if !request.Remote.IsValid() {
			return errors.New("SSH_CONNECTION is not set: shell is run by sshd, as the forced command of a key")
		}
		return relay(cmd, request)
	}
	return cmd
}

// authorizedKeysCommand is what sshd asks for keys.
func authorizedKeysCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "authorized-keys TYPE KEY",
		Short: "Print the authorized_keys line of a key, for sshd's AuthorizedKeysCommand",
		Long:  "authorized-keys prints the line that lets the key's owner run `git cluster shell` and nothing else, or nothing if the cluster does not know the key. In sshd_config:\n\n  AuthorizedKeysCommand /usr/local/bin/git-cluster authorized-keys --data /var/lib/git-cluster %t %k\n  AuthorizedKeysCommandUser git-cluster      # the account the node runs as\n  AcceptEnv GIT_PROTOCOL GIT_CLUSTER_*",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var found admin.KeyOwner
			request := admin.KeyFind{Key: args[0] + " " + args[1]}
			if err := call(cmd, "key.find", request, &found); err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			who := ""
			switch {
			case found.User != "":
				who = "--user " + string(found.User)
			case found.Device != "":
				who = "--device " + string(found.Device)
			default:
				return nil
			}
			command := fmt.Sprintf("%s shell --data %s %s", quote(self), quote(dataFlag(cmd)), who)
			fmt.Fprintf(cmd.OutOrStdout(), "restrict,command=\"%s\" %s %s\n", strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(command), args[0], args[1])
			return nil
		},
	}
}

// localTransportCommand is the "ssh" by which Git on a node reaches the node
// itself as its operator.
func localTransportCommand() *cobra.Command {
	return &cobra.Command{
		Use: "local-transport HOST COMMAND", Hidden: true, Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return relay(cmd, localsocket.SessionRequest{Command: args[1], As: cluster.Identity{Operator: true}})
		},
	}
}

func relay(cmd *cobra.Command, request localsocket.SessionRequest) error {
	status, err := localsocket.RunSession(cmd.Context(), dataFlag(cmd), request, os.Stdin, os.Stdout, os.Stderr)
	if err == nil && status != 0 {
		err = exitStatus(status)
	}
	return err
}

// runGit runs a Git command of the person's own, with their terminal.
func runGit(cmd *cobra.Command, env []string, args ...string) error {
	c := gitcmd.Command{Args: append([]string{"git"}, args...), Env: append(os.Environ(), env...)}
	err := new(gitexec.Runner).Run(cmd.Context(), c, gitexec.IO{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	if exit := (*gitexec.ExitError)(nil); errors.As(err, &exit) {
		return exitStatus(gitexec.Status(err))
	}
	return err
}

func quote(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return strings.ContainsRune(" \t'\"\\$`&|;<>()*?[]#~!{}", r) }) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}
