package gitcmd

import "slices"

// Over HTTP each exchange of a fetch or a push is several requests, which need not
// reach the same node: a listing of refs, or under version 2 of the protocol of
// capabilities, and then requests that each bring all that was said before
// (gitprotocol-http(5)).

// AdvertiseUploadPack prints the listing for a fetch.
func AdvertiseUploadPack(dir, protocol string) Command {
	return withOption(UploadPack(dir, protocol), "--http-backend-info-refs")
}

// StatelessUploadPack answers one further request of a fetch.
func StatelessUploadPack(dir, protocol string) Command {
	return withOption(UploadPack(dir, protocol), "--stateless-rpc")
}

// withOption adds an option before the last argument, the directory.
func withOption(c Command, option string) Command {
	c.Args = slices.Insert(c.Args, len(c.Args)-1, option)
	return c
}
