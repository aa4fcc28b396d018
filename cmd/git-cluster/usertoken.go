package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
)

func userTokenCommand() *cobra.Command {
	return group("token", "Make, list or revoke the tokens by which a user signs in over HTTPS",
		userTokenCreate(), userTokenList(), userTokenRevoke())
}

func userTokenCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create USER", Short: "Make an access token", Args: cobra.ExactArgs(1),
		Long:    "create prints an access token, on its last line. It is the password with which the user signs in over HTTPS, to Git, to Conduit and to the web page. It is not shown again. A user may make their own; an administrator, anybody's.",
		Example: "  git cluster user token create alice --label laptop\n  git clone https://alice@repo001.example.com:8443/team/project     # the token is the password",
	}
	label := cmd.Flags().String("label", "", "what it is for, to tell it from others in the list")
	valid := days(90 * 24 * time.Hour)
	cmd.Flags().Var(&valid, "valid", "how long the token is good, in days (90d) or hours")
	readOnly := cmd.Flags().Bool("read-only", false, "a token that can change nothing")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var t admin.NewUserToken
		p := admin.UserTokenCreate{User: cluster.UserName(args[0]), Label: *label, Valid: time.Duration(valid), ReadOnly: *readOnly}
		if err := call(cmd, "user.token.create", p, &t); err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "This token is the password of %s over HTTPS until %s:\n", p.User, t.Expires.Local().Format(time.DateTime))
		fmt.Fprintln(cmd.OutOrStdout(), t.Token)
		return nil
	}
	return cmd
}

func userTokenList() *cobra.Command {
	cmd := &cobra.Command{Use: "list USER", Short: "List a user's access tokens, without their secrets", Args: cobra.ExactArgs(1)}
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var tokens []cluster.UserToken
		if err := call(cmd, "user.token.list", admin.UserName{User: cluster.UserName(args[0])}, &tokens); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), tokens)
		}
		return table(cmd.OutOrStdout(), "TOKEN\tLABEL\tMAY\tCREATED\tEXPIRES", func(row func(string, ...any)) {
			for _, t := range tokens {
				may, until := "write", t.Expires.Local().Format(time.DateTime)
				if t.ReadOnly {
					may = "read"
				}
				if time.Now().After(t.Expires) {
					until = "has expired"
				}
				row("%s\t%s\t%s\t%s\t%s", t.ID, t.Label, may, t.Created.Local().Format(time.DateTime), until)
			}
		})
	}
	return cmd
}

func userTokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke USER TOKEN", Short: "Make an access token worth nothing, given by its id", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, "user.token.revoke", admin.UserTokenRevoke{User: cluster.UserName(args[0]), ID: args[1]}, nil)
		},
	}
}

// days is a duration that can be written in days, too: "90d".
type days time.Duration

func (d *days) Set(s string) error {
	if number, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return fmt.Errorf("%q: use a number of days, such as 90d", s)
		}
		*d = days(n) * days(24*time.Hour)
		return nil
	}
	v, err := time.ParseDuration(s)
	*d = days(v)
	return err
}

func (d *days) String() string {
	if v := time.Duration(*d); v%(24*time.Hour) != 0 {
		return v.String()
	}
	return fmt.Sprintf("%dd", time.Duration(*d)/(24*time.Hour))
}

func (d *days) Type() string { return "duration" }
