// Package localsocket is the node's Unix socket: the way in for those who share
// the node's account on its machine. These are Git's hooks within a push, the
// forced command behind an ordinary sshd, and the operator's commands.
//
// Entry points: [Listen] and [Server.Serve] for the node; [RunSession] and
// [RunHook] for the callers; [HookFromEnv] for a hook that has to find out which
// push it belongs to; [Path] for where the socket is.
//
// It promises that both ends belong to the account that owns the data directory
// or to root, as the kernel says, whatever the file's mode; that a caller whose
// node goes away gets an error and never an exit status; and that a caller that
// goes away ends what it asked for. Neither end buffers more than a few frames:
// who does not read makes the other wait.
package localsocket
