package gitcmd

import (
	"slices"
	"strings"
	"testing"
)

func TestOverHTTP(t *testing.T) {
	for _, tt := range []struct {
		got    Command
		args   string
		like   Command // the same over a connection
		writes bool
	}{
		{AdvertiseUploadPack("/r/a.git", "version=2"), "git upload-pack --strict --http-backend-info-refs /r/a.git", UploadPack("/r/a.git", "version=2"), false},
		{StatelessUploadPack("/r/a.git", "version=2"), "git upload-pack --strict --stateless-rpc /r/a.git", UploadPack("/r/a.git", "version=2"), false},
	} {
		if args := strings.Join(tt.got.Args, " "); args != tt.args {
			t.Errorf("%s, want %s", args, tt.args)
		}
		if !slices.Equal(tt.got.Env, tt.like.Env) || tt.got.Writes != tt.writes {
			t.Errorf("%s: another environment than without HTTP", tt.args)
		}
	}
}
