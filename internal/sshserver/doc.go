// Package sshserver is the node's SSH front: it authenticates clients by their
// keys and hands each command they run, with its streams, to a
// [session.Handler].
//
// Entry points: [Listen], [New], [Server.Serve], [Server.Shutdown].
//
// It promises never to run a program, to forward a port, to allocate a
// terminal or to accept a password; to give a handler only identities that
// signed for themselves; to bound what a stranger can hold (connections,
// channels, sizes, time); and to tell a refused client nothing but that it was
// refused.
//
// The login name "join" is different: any key is accepted, the identity is
// empty, and the one command such a connection can run goes to a handler of its
// own, which decides by what the joining machine says and proves.
package sshserver
