// Package version knows which build of the programs this is.
//
// Entry point: [String]. It promises an answer for every build: the release's
// name, or the revision it was built from.
package version

import "runtime/debug"

// release is set by the linker for a build that install.sh makes.
var release = ""

// String returns the version, such as "0.1.0" or "devel-3f2a91c8d0e1".
func String() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return "devel-" + s.Value[:12]
			}
		}
	}
	return "devel"
}
