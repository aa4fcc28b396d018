// Package credential is a machine's own identity: its key, the short-lived
// tokens it signs to be known over HTTPS, and the credential helper by which
// Git asks for one.
//
// Entry points: [Load] reads this machine's [Identity], and [Prepare] with
// [Identity.Save] makes one; [Issue] signs a token for one server and [Verify]
// is that server's side; [Helper] answers Git, and [Helper.Configure] tells Git
// to ask; [AsDevice] and [Conflict] say when the identity is to be used.
//
// It promises never to ask anybody anything, never to print or send a key, to
// use no key that others can read, to answer Git completely or not at all, and,
// once a machine was told to act as a device, to fail rather than to let a
// person's credential take the device's place.
package credential
