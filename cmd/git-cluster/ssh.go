package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"gitcluster/internal/client"
	"gitcluster/internal/session"
)

// sshCommand connects as the helper and the nodes do. It takes the options that
// Git gives to ssh, so that it can stand in for that.
func sshCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ssh [USER@]NODE [COMMAND]",
		Short: "Run a command on a node, with the credentials that git-remote-cluster would use",
		Long: "ssh connects to a node, by its name in the client configuration or by host[:port], and runs a command there; without one the node says who you are. " +
			"With PHABRICATOR_AS_DEVICE set it connects as this device.\n\nFor ssh:// addresses: GIT_SSH_COMMAND=\"git-cluster ssh\" git fetch ssh://repo001:2222/demo/hello",
		DisableFlagParsing: true, // they are ssh's
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := parseSSH(args)
			if err != nil {
				return err
			}
			if q.help {
				return cmd.Help()
			}
			if q.probe {
				return nil // Git asks whether we take OpenSSH's options
			}
			conn, err := client.Connect(cmd.Context(), q.node, q.user, "", os.Getenv, true)
			if err != nil {
				return err
			}
			defer conn.Close()
			env := map[string]string{}
			for name := range session.AllowedEnv {
				if value := os.Getenv(name); value != "" {
					env[name] = value
				}
			}
			status, err := conn.Run(cmd.Context(), q.command, env, os.Stdin, os.Stdout, os.Stderr)
			if err == nil && status != 0 {
				err = exitStatus(status)
			}
			return err
		},
	}
}

// An sshRequest is what Git asks of an ssh program.
type sshRequest struct {
	user, node, command string
	probe, help         bool
}

func parseSSH(args []string) (q sshRequest, err error) {
	port := ""
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch arg := args[0]; arg {
		case "-G":
			q.probe = true
		case "-4", "-6":
		case "-h", "--help":
			return sshRequest{help: true}, nil
		case "-p", "-o":
			if len(args) < 2 {
				return q, fmt.Errorf("%s needs a value", arg)
			}
			// Of ssh's settings Git gives SendEnv=GIT_PROTOCOL, which is sent anyway.
			if arg == "-o" && args[1] != "SendEnv=GIT_PROTOCOL" {
				return q, fmt.Errorf("the setting %q of ssh is not known here", args[1])
			}
			if arg == "-p" {
				port = args[1]
			}
			args = args[1:]
		default:
			return q, fmt.Errorf("the option %q of ssh is not known here", arg)
		}
		args = args[1:]
	}
	if len(args) == 0 {
		return q, errors.New("no node is named: git cluster ssh [USER@]NODE [COMMAND]")
	}
	q.node = args[0]
	if user, node, ok := strings.Cut(args[0], "@"); ok {
		q.user, q.node = user, node
	}
	if port != "" {
		q.node = net.JoinHostPort(strings.Trim(q.node, "[]"), port)
	}
	q.command = strings.Join(args[1:], " ")
	return q, nil
}
