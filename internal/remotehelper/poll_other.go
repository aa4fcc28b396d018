//go:build !unix

package remotehelper

import "os"

// pollUnread cannot tell here; the end of the service's output ends the helper.
func pollUnread(*os.File) bool { return false }
