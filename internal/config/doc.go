// Package config reads and writes the configuration files of the programs. It
// is the only package that knows their syntax, TOML.
//
// Entry points: [ClientPath] finds the client's file, [LoadClient] reads and
// checks it, [Client.Write] writes one, [Add] extends one that a person wrote.
//
// It promises that what a Load function returns is complete and checked: an
// unknown key, a missing one or a bad value is an error of one line that names
// the file and, where there is one, the line. A file is written whole or not at
// all, and what was written can be read back.
package config
