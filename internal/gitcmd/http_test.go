package gitcmd

import (
	"slices"
	"strings"
	"testing"
)

func TestOverHTTP(t *testing.T) {
	push := Push{Hooks: "/n/hooks", Socket: "/n/sock", Token: "secret"}
	for _, tt := range []struct {
		got    Command
		args   string
		like   Command // the same over a connection
		writes bool
	}{
		{AdvertiseUploadPack("/r/a.git", "version=2"), "git upload-pack --strict --http-backend-info-refs /r/a.git", UploadPack("/r/a.git", "version=2"), false},
		{StatelessUploadPack("/r/a.git", "version=2"), "git upload-pack --strict --stateless-rpc /r/a.git", UploadPack("/r/a.git", "version=2"), false},
		{StatelessReceivePack("/r/a.git", push), "git receive-pack --stateless-rpc /r/a.git", ReceivePack("/r/a.git", "", push), true},
	} {
		if args := strings.Join(tt.got.Args, " "); args != tt.args {
			t.Errorf("%s, want %s", args, tt.args)
		}
		if !slices.Equal(tt.got.Env, tt.like.Env) || tt.got.Writes != tt.writes {
			t.Errorf("%s: another environment than without HTTP", tt.args)
		}
	}
	list := AdvertiseReceivePack("/r/a.git")
	if args := strings.Join(list.Args, " "); args != "git receive-pack --http-backend-info-refs /r/a.git" || list.Writes {
		t.Errorf("%s, writes: %v", args, list.Writes)
	}
	if !slices.Contains(list.Env, "GIT_CONFIG_VALUE_6=/dev/null") || !slices.ContainsFunc(list.Env, func(v string) bool { return strings.HasSuffix(v, "=receive.advertiseAtomic") }) {
		t.Errorf("the listing for a push has the environment %q", list.Env)
	}
}
