package client

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// The variables by which Git is told of another SSH program.
const (
	envSSHCommand = "GIT_SSH_COMMAND"
	envSSH        = "GIT_SSH"
	envSSHVariant = "GIT_SSH_VARIANT"
)

// A program is an SSH client other than the built-in one.
type program struct {
	command string // a piece of shell, or a path
	shell   bool
	variant string // what the settings say of its options; "" is to be found out
	from    string // the setting that names it; "" for ssh because nothing else will do
}

// The kinds of options that Git knows, by ssh.variant in git-config(1).
const (
	variantSSH           = "ssh"
	variantSimple        = "simple"
	variantPlink         = "plink"
	variantPutty         = "putty"
	variantTortoisePlink = "tortoiseplink"
)

// findProgram is the program that Git would run. chosen is false if that is just
// ssh, for which the built-in client stands in.
func findProgram(getenv func(string) string, s settings) (p program, chosen bool) {
	p.variant = getenv(envSSHVariant)
	if p.variant == "" {
		p.variant = s.sshVariant
	}
	switch p.variant = strings.ToLower(p.variant); p.variant {
	case "auto":
		p.variant = ""
	case "", variantSimple, variantPlink, variantPutty, variantTortoisePlink:
	default:
		p.variant = variantSSH
	}
	switch {
	case getenv(envSSHCommand) != "":
		p.command, p.shell, p.from = getenv(envSSHCommand), true, envSSHCommand
	case s.sshCommand != "":
		p.command, p.shell, p.from = s.sshCommand, true, "core.sshCommand"
	case getenv(envSSH) != "":
		p.command, p.from = getenv(envSSH), envSSH
	default:
		return program{command: "ssh", variant: variantSSH}, false
	}
	return p, true
}

// String names the program for messages. Its command line may hold a password.
func (p program) String() string {
	if p.from == "" {
		return "ssh"
	}
	return "the program of " + p.from
}

// named is the variant that a program's name stands for; "" for a name that says
// nothing.
func (p program) named() string {
	name := p.command
	if p.shell {
		name = firstWord(name)
	}
	switch name = strings.TrimSuffix(strings.ToLower(filepath.Base(name)), ".exe"); name {
	case variantSSH, variantPlink, variantTortoisePlink:
		return name
	}
	return ""
}

// firstWord is the first word of a piece of shell, as far as Git looks into it.
func firstWord(s string) string {
	var b strings.Builder
	quote := byte(0)
	s = strings.TrimLeft(s, " \t\n")
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case quote == 0 && strings.IndexByte(" \t\n", c) >= 0:
			return b.String()
		case quote != '\'' && c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	if quote != 0 {
		return ""
	}
	return b.String()
}

// shellChars are those for which Git has a shell read a command, and not just
// its system start it.
const shellChars = "|&;<>()$`\\\"' \t\n*?[#~=%"

// argv is the command line of the program with these arguments.
func (p program) argv(args ...string) []string {
	if p.shell && strings.ContainsAny(p.command, shellChars) {
		// The arguments follow as "$@", so that no shell reads them.
		return append([]string{"sh", "-c", p.command + ` "$@"`, p.command}, args...)
	}
	return append([]string{p.command}, args...)
}

// An aim is whom a program shall connect to.
type aim struct {
	host   string
	port   int    // 0 if nobody names one
	user   string // "" to leave it to the program
	family string // "ipv4", "ipv6" or ""
	extra  []string
	batch  bool // plink: ask nobody
}

// arguments are the program's, up to and with the host. protocol is the value of
// GIT_PROTOCOL, which goes through the environment; sent are further variables.
func (a aim) arguments(variant, protocol string, sent []string) (args []string, err error) {
	if a.host == "" || a.host[0] == '-' || strings.HasPrefix(a.user, "-") {
		return nil, fmt.Errorf("the host %q could be an option", a.user+"@"+a.host)
	}
	if variant == variantSSH {
		if protocol != "" {
			sent = append([]string{"GIT_PROTOCOL"}, sent...)
		}
		for _, name := range sent {
			args = append(args, "-o", "SendEnv="+name)
		}
		args = append(args, a.extra...)
	}
	if a.family != "" {
		if variant == variantSimple {
			return nil, fmt.Errorf("an SSH program of the variant %q has no option for %s", variant, a.family)
		}
		args = append(args, map[string]string{"ipv4": "-4", "ipv6": "-6"}[a.family])
	}
	if variant == variantTortoisePlink || a.batch {
		args = append(args, "-batch")
	}
	if a.port != 0 {
		switch variant {
		case variantSimple:
			return nil, fmt.Errorf("an SSH program of the variant %q has no option for the port %d", variant, a.port)
		case variantSSH:
			args = append(args, "-p", strconv.Itoa(a.port))
		default:
			args = append(args, "-P", strconv.Itoa(a.port))
		}
	}
	if a.user != "" {
		return append(args, a.user+"@"+a.host), nil
	}
	return append(args, a.host), nil
}
