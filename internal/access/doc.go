// Package access says who may do what: it turns a key and an address into an
// identity, and an identity and a repository into a role.
//
// Entry points: [NewDirectory] takes a snapshot of the journal's devices, users
// and grants; [Directory.Authenticate], [Directory.ByToken] and [Directory.ActAs] give identities;
// [Directory.Role] and [Directory.Admin] say what one may do.
//
// It promises to do no I/O, to answer the same question always the same way,
// and to fail closed: a record it cannot read gives nobody anything, and a key
// or an identity that could mean two holders means none. The errors it returns
// tell the reason and so are for the log; a stranger is told only "refused".
package access
