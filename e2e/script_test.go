package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"gitcluster/internal/clustertest"
)

// TestScripts runs testdata/*.txtar. In a script
//
//	$R                        is a folder of repository names of its own
//	$NODE1, $DATA1            are the first node's SSH address and data directory; 2 and 3 likewise
//	$KEY                      is the private key of the administrator who runs the script
//	via NODE COMMAND…         runs a command with the helper pinned to a node
//	user NAME [FLAGS]         adds a user to the cluster
//	stranger NAME             makes somebody with a key that the cluster does not know
//	as NAME COMMAND…          runs a command as one of them
//	refused NAME COMMAND…     does so until it is refused, which follows a change of rights soon
//	commit DIR FILE TEXT      commits a file
//	keep VARIABLE             sets a variable to what the last command printed
func TestScripts(t *testing.T) {
	c := sharedCluster(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Vars = append(env.Vars, c.Admin.Environment()...)
			env.Vars = append(env.Vars, "HOME="+env.WorkDir+"/.home", "TMPDIR="+env.WorkDir,
				"R="+strings.TrimPrefix(filepath.Base(env.WorkDir), "script-"), "SSH_CONFIG="+c.Admin.SSHConfig(), "BIN="+c.Bin,
				"KEY="+strings.TrimSuffix(c.Admin.PublicKey(), ".pub"))
			for i, n := range c.Nodes {
				number := string(rune('1' + i))
				env.Vars = append(env.Vars, "NODE"+number+"="+n.SSH, "DATA"+number+"="+n.Data)
			}
			env.Values["users"] = map[string]*clustertest.User{}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"via":      scriptVia,
			"user":     scriptUser(t),
			"stranger": scriptStranger(t),
			"as":       scriptAs,
			"refused":  scriptRefused,
			"commit":   scriptCommit,
			"keep":     scriptKeep,
		},
	})
}

// with runs a command with variables set for it alone.
func with(ts *testscript.TestScript, neg bool, vars map[string]string, args []string) {
	err := execWith(ts, vars, args)
	switch {
	case err != nil && !neg:
		ts.Fatalf("%s: %v", strings.Join(args, " "), err)
	case err == nil && neg:
		ts.Fatalf("%s: succeeded, and should not have", strings.Join(args, " "))
	}
}

func execWith(ts *testscript.TestScript, vars map[string]string, args []string) error {
	for name, value := range vars {
		old := ts.Getenv(name)
		ts.Setenv(name, value)
		defer ts.Setenv(name, old)
	}
	return ts.Exec(args[0], args[1:]...)
}

func scriptVia(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: via NODE COMMAND…")
	}
	with(ts, neg, map[string]string{"GIT_CLUSTER_REPLICA": args[0]}, args[1:])
}

func users(ts *testscript.TestScript) map[string]*clustertest.User {
	return ts.Value("users").(map[string]*clustertest.User)
}

func scriptUser(t *testing.T) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		name := args[0] + "-" + ts.Getenv("R") // no other script has it
		users(ts)[args[0]] = addUser(t, name, args[1:]...)
		ts.Setenv(strings.ToUpper(args[0]), name)
	}
}

func scriptStranger(t *testing.T) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		shared.mu.Lock()
		defer shared.mu.Unlock()
		u := shared.cluster.NewUser(t, args[0]+"-"+ts.Getenv("R"))
		users(ts)[args[0]] = u
		ts.Setenv(strings.ToUpper(args[0])+"_KEY", u.PublicKey())
	}
}

func scriptAs(ts *testscript.TestScript, neg bool, args []string) {
	with(ts, neg, identity(ts, args[0]), args[1:])
}

// identity is what makes a command one of a script's user.
func identity(ts *testscript.TestScript, name string) map[string]string {
	u := users(ts)[name]
	if u == nil {
		ts.Fatalf("no user %q in this script", name)
	}
	vars := map[string]string{}
	for _, v := range u.Environment() {
		name, value, _ := strings.Cut(v, "=")
		if name == "GIT_CLUSTER_CONFIG" || name == "SSH_CONFIG" {
			vars[name] = value
		}
	}
	return vars
}

func scriptRefused(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: refused NAME COMMAND…")
	}
	vars := identity(ts, args[0])
	for deadline := time.Now().Add(30 * time.Second); ; {
		began := time.Now()
		err := execWith(ts, vars, args[1:])
		if err != nil {
			return
		}
		if began.After(deadline) {
			ts.Fatalf("%s: still succeeds, and should not", strings.Join(args, " "))
		}
	}
}

func scriptCommit(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: commit DIR FILE TEXT")
	}
	ts.Check(writeFile(ts.MkAbs(filepath.Join(args[0], args[1])), args[2]+"\n"))
	ts.Check(ts.Exec("git", "-C", args[0], "add", args[1]))
	ts.Check(ts.Exec("git", "-C", args[0], "commit", "-q", "-m", args[2]))
}

func scriptKeep(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: keep VARIABLE")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}
