// Package cluster is the vocabulary every other package shares: the names,
// versions, ref updates, digests and sentinel errors of a cluster of Git
// repositories.
//
// Entry points: [ParseRepoName] and the other Parse functions turn text from a
// stranger into a typed name or an error that says what is wrong with it;
// [Digest] is the incremental hash by which replicas compare all their refs.
//
// It promises to do no I/O, to hold no state, and to import nothing from this
// module. A value of one of its name types that came from a Parse function is
// safe to use as a path component, a journal key and a command argument.
package cluster
