// Package gitcmd builds the Git commands a node runs, as data: an argument list
// and an environment, from what the command is for. It runs nothing; package
// gitexec does.
//
// Entry points: one function per purpose, such as [UploadPack] or [UpdateRef];
// a [Remote], of an address that [ParseRemote] accepted, builds those that speak to
// another host.
//
// It promises that a command depends on its inputs alone: the configuration
// comes from here through the environment and overrides the repository's own file,
// which only the node writes; the account's and the system's are not read; names that a stranger chose are never argv words
// that Git could take for options; and no secret is ever in argv.
package gitcmd

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"gitcluster/internal/cluster"
)

// A Command is one process to run.
type Command struct {
	Args []string // Args[0] is the program, looked up in PATH
	Env  []string // the whole environment
	Dir  string   // the working directory; "" for the caller's
	// Writes marks a command that changes a repository. Such a process holds
	// the data directory's lock for as long as it lives.
	Writes bool
	// Memory bounds what the process may allocate, in bytes, where the system can do that;
	// 0 stands for no bound.
	Memory uint64
	// Foreground keeps the process among those of the terminal, since it may have to
	// ask a person.
	Foreground bool
}

// A Setting is one line of Git configuration.
type Setting struct{ Key, Value string }

// A Push tells a receive-pack which push of which node it serves, for its hooks.
type Push struct {
	Hooks  string // directory that holds the hooks
	Socket string // the node's socket, as the hooks dial it
	Token  string // names the push to the node; useless outside it
	// CertSeed, if not "", is what makes the nonce of this push unguessable, and lets
	// the client sign the push with it.
	CertSeed string
}

// UploadPack serves a fetch from the repository at dir. protocol is what the
// client asked for in GIT_PROTOCOL.
func UploadPack(dir, protocol string) Command {
	return serve(dir, "upload-pack", protocol, reading)
}

// Packs tells an upload-pack where to ask for its packs, instead of making them.
type Packs struct {
	Hook   string // program that asks the node; "" has Git make them itself
	Socket string // the node's socket, as the hook dials it
	Token  string // names the fetch to the node; useless outside it
}

// Shared has an upload-pack ask for its packs.
func (p Packs) Shared(c Command) Command {
	if p.Hook == "" {
		return c
	}
	// Git hands it to a shell, if there is anything in it that a shell would mind.
	hook := "'" + strings.ReplaceAll(p.Hook, "'", `'\''`) + "'"
	if strings.Trim(p.Hook, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") == "" {
		hook = p.Hook // one process less
	}
	c = c.with(Setting{"uploadpack.packObjectsHook", hook})
	c.Env = append(c.Env, EnvSocket+"="+p.Socket, EnvPush+"="+p.Token)
	return c
}

// SharedPack is the pack-objects that an upload-pack would have run in the repository
// at dir: args are what it passed to its hook.
func SharedPack(dir string, args []string) (Command, error) {
	if !CanShare(args) {
		return Command{}, fmt.Errorf("no arguments of a pack to be shared: %.200q", args)
	}
	return command(dir, reading, args[1:]...), nil
}

// CanShare reports whether all arguments of a pack-objects are known to depend on
// nothing but what they say and what comes on standard input.
func CanShare(args []string) bool {
	if len(args) > 3 && args[1] == "--shallow-file" && args[2] == "" {
		args = slices.Delete(slices.Clone(args), 1, 3)
	}
	if len(args) < 3 || args[0] != "git" || args[1] != "pack-objects" {
		return false
	}
	for _, arg := range args[2:] {
		switch arg {
		case "--revs", "--thin", "--stdout", "--shallow", "--progress", "-q", "--delta-base-offset", "--include-tag":
		default:
			// A sparse filter names its blob as a revision may be named, by a ref
			// too, and refs move. In a combined one names may be encoded.
			if filter, ok := strings.CutPrefix(arg, "--filter="); !ok || strings.Contains(filter, "sparse") || strings.Contains(filter, "%") {
				return false
			}
		}
	}
	return slices.Contains(args, "--revs") && slices.Contains(args, "--stdout")
}

// UploadArchive serves `git archive --remote`.
func UploadArchive(dir string) Command {
	return serve(dir, "upload-archive", "", reading)
}

// ReceivePack serves a push of which the listing was given already into the repository at
// dir. Its hooks hand every command to the node; it changes no ref itself.
func ReceivePack(dir string, push Push) Command {
	settings := append(slices.Clone(receiving), Setting{"core.hooksPath", push.Hooks})
	if push.CertSeed != "" {
		settings = append(settings, Setting{"receive.certNonceSeed", push.CertSeed},
			// The nonce was made on this very connection, before a client that may take
			// its time.
			Setting{"receive.certNonceSlop", "86400"},
			// Whose key it is the cluster knows; Git is only to check the signature.
			Setting{"gpg.ssh.allowedSignersFile", os.DevNull})
	}
	c := withOption(serve(dir, "receive-pack", "", settings), "--stateless-rpc")
	c.Env = append(c.Env, EnvSocket+"="+push.Socket, EnvPush+"="+push.Token)
	c.Writes = true
	return c
}

// The variables by which a hook finds the push it belongs to.
const (
	EnvSocket = "GIT_CLUSTER_SOCKET"
	EnvPush   = "GIT_CLUSTER_PUSH"
)

// Init creates an empty bare repository at dir.
func Init(dir string, format cluster.ObjectFormat, head cluster.RefName) Command {
	c := command("", nil, "init", "--bare", "--quiet", "--template=",
		"--object-format="+string(format), "--initial-branch="+branchName(head), dir)
	c.Writes = true
	return c
}

// UpdateRef opens a ref transaction; its commands come on standard input,
// separated by NUL bytes. Without sync the caller must sync what it writes.
func UpdateRef(dir string, sync bool) Command {
	var settings []Setting
	if !sync {
		settings = []Setting{{"core.fsync", "none"}}
	}
	c := command(dir, settings, "update-ref", "--stdin", "-z", "--no-deref")
	c.Writes = true
	return c
}

// SetHead points HEAD at a branch.
func SetHead(dir string, head cluster.RefName) Command {
	c := command(dir, nil, "symbolic-ref", "HEAD", string(head))
	c.Writes = true
	return c
}

// ReadHead prints HEAD's target.
func ReadHead(dir string) Command {
	return command(dir, nil, "symbolic-ref", "HEAD")
}

// ListRefs prints "OID ref" for every ref that is part of the journal.
func ListRefs(dir string) Command {
	return command(dir, nil, "for-each-ref", "--format=%(objectname) %(refname)")
}

// CheckObjects reads object ids on standard input and prints "OID type" or "OID missing"
// for each.
func CheckObjects(dir string) Command {
	return command(dir, nil, "cat-file", "--batch-check=%(objectname) %(objecttype)", "--buffer")
}

// PackObjects reads revisions on standard input ("OID" and "^OID") and writes a
// thin pack of what the first reach and the second do not.
func PackObjects(dir string) Command {
	return command(dir, nil, "pack-objects", "--revs", "--stdout", "--thin", "--delta-base-offset", "-q")
}

// IndexPack reads a thin pack on standard input and completes and stores it in
// the object directory quarantine, with the repository's own objects as
// alternates.
func IndexPack(dir, quarantine string) Command {
	c := command(dir, nil, "index-pack", "--stdin", "--fix-thin")
	c.Env = append(c.Env, quarantined(dir, quarantine)...)
	c.Writes = true
	return c
}

// IndexIncoming is [IndexPack] for what a client has sent: each object is checked, and
// one that refers to what is nowhere is refused. A zero byte on standard error says that
// all was read.
func IndexIncoming(dir, quarantine string, progress bool) Command {
	var levels []string
	for _, s := range harmless("") {
		levels = append(levels, strings.TrimPrefix(s.Key, ".fsck.")+"="+s.Value)
	}
	args := []string{"index-pack", "--stdin", "--fix-thin", "--report-end-of-input", "--strict=" + strings.Join(levels, ",")}
	if progress {
		args = append(args, "--show-resolving-progress")
	}
	c := command(dir, nil, args...).In(dir, quarantine)
	c.Writes = true
	return c
}

// In has a command see the objects in a quarantine of the repository at dir, too.
func (c Command) In(dir, quarantine string) Command {
	c.Env = append(slices.Clone(c.Env), quarantined(dir, quarantine)...)
	return c
}

// Apart has a command that works in a quarantine see nothing of the repository's own
// objects.
func (c Command) Apart() Command {
	c.Env = slices.DeleteFunc(slices.Clone(c.Env), func(v string) bool { return strings.HasPrefix(v, alternates) })
	return c
}

const alternates = "GIT_ALTERNATE_OBJECT_DIRECTORIES="

// RevList reads revisions on standard input and walks all objects that the
// plain ones reach and those with "^" do not; it fails when one is missing.
// With a quarantine, objects there count as present.
func RevList(dir, quarantine string) Command {
	c := command(dir, walking, "rev-list", "--objects", "--quiet", "--stdin")
	if quarantine != "" {
		c.Env = append(c.Env, quarantined(dir, quarantine)...)
	}
	return c
}

// IsAncestor exits 0 if the commit old is an ancestor of new, and 1 if not. Objects in the
// quarantine count as present.
func IsAncestor(dir, quarantine string, old, new cluster.OID) Command {
	c := command(dir, nil, "merge-base", "--is-ancestor", string(old), string(new))
	if quarantine != "" {
		c.Env = append(c.Env, quarantined(dir, quarantine)...)
	}
	return c
}

// Bundle writes a bundle of all refs and what they reach to a file.
func Bundle(dir, file string) Command {
	return command(dir, nil, "bundle", "create", "--quiet", file, "--all")
}

// Fsck checks the repository and the connectivity of its refs, and what was computed from
// the objects.
func Fsck(dir string) Command { return fsck(dir, nil) }

// FsckObjects is [Fsck] that neither checks nor uses what was computed from the objects.
func FsckObjects(dir string) Command {
	return fsck(dir, append(slices.Clone(walking), Setting{"core.multiPackIndex", "false"}))
}

func fsck(dir string, settings []Setting) Command {
	return command(dir, settings, "fsck", "--connectivity-only", "--no-dangling", "--no-progress")
}

// Version prints Git's version.
func Version() Command {
	return command("", nil, "version")
}

func quarantined(dir, quarantine string) []string {
	return []string{
		"GIT_OBJECT_DIRECTORY=" + quarantine,
		alternates + quotePath(dir+"/objects"),
	}
}

// quotePath quotes a path as Git reads it in a list of paths: by C's rules,
// with other bytes than control characters as they are.
func quotePath(path string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(path) {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, "\\%03o", c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func serve(dir, service, protocol string, settings []Setting) Command {
	// dir is the node's own absolute path, so it cannot look like an option.
	args := []string{service, dir}
	if service == "upload-pack" {
		args = []string{service, "--strict", dir}
	}
	c := command(dir, settings, args...)
	if protocol != "" {
		c.Env = append(c.Env, "GIT_PROTOCOL="+protocol)
	}
	return c
}

func branchName(head cluster.RefName) string {
	const prefix = "refs/heads/"
	if len(head) > len(prefix) {
		return string(head[len(prefix):])
	}
	return "main"
}

// always holds for every Git process of a node. Everything is synced to disk
// before Git says it is done, and nothing is pruned or repacked behind the
// engine's back.
var always = []Setting{
	{"core.fsync", "all"},
	{"core.fsyncMethod", "fsync"},
	{"core.logAllRefUpdates", "false"},
	{"gc.auto", "0"},
	{"maintenance.auto", "false"},
	{"receive.autogc", "false"},
	{"core.hooksPath", os.DevNull},
	{"transfer.hideRefs", cluster.StraysPrefix[:len(cluster.StraysPrefix)-1]},
	// Larger blobs are passed through as they are, not held in memory; and smaller
	// ones are compared with each other within bounds.
	{"core.bigFileThreshold", "64m"},
	{"pack.windowMemory", "128m"},
	{"pack.deltaCacheSize", "64m"},
	{"protocol.allow", "never"},
	{"advice.defaultBranchName", "false"},
}

var reading = []Setting{
	{"uploadpack.allowFilter", "true"},
	{"uploadpack.allowReachableSHA1InWant", "true"},
	{"uploadpack.advertiseRefInWant", "true"},
	{"uploadarchive.allowUnreachable", "false"},
}

var receiving = []Setting{
	{"receive.procReceiveRefs", "refs"},
	{"receive.shallowUpdate", "false"},
	{"receive.unpackLimit", "1"}, // a pack is two files to sync; loose objects are many
	{"receive.advertisePushOptions", "true"},
	{"receive.advertiseAtomic", "true"},
	{"receive.denyCurrentBranch", "ignore"},
	{"receive.denyDeleteCurrent", "ignore"}, // the engine decides, for every front alike
	{"receive.updateServerInfo", "false"},
	// The store behind the quarantine is this repository's own, whose refs the check of
	// what has come reads anyway: to list them as another's would cost a process, and
	// more with each ref.
	{"core.alternateRefsCommand", "true"},
	{"receive.fsckObjects", "true"},
	// Mistakes of old tools that fill real histories and harm nobody.
	{"receive.fsck.badTimezone", "ignore"},
	{"receive.fsck.missingSpaceBeforeDate", "ignore"},
	{"receive.fsck.zeroPaddedFilemode", "ignore"},
	{"receive.fsck.zeroPaddedDate", "ignore"},
}

// with adds a line of configuration to a command's.
func (c Command) with(s Setting) Command {
	const count = "GIT_CONFIG_COUNT="
	c.Env = slices.Clone(c.Env)
	for i, entry := range c.Env {
		if text, ok := strings.CutPrefix(entry, count); ok {
			n, _ := strconv.Atoi(text)
			c.Env[i] = count + strconv.Itoa(n+1)
			c.Env = append(c.Env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", n, s.Key), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", n, s.Value))
			break
		}
	}
	return c
}

func command(dir string, settings []Setting, args ...string) Command {
	argv := append([]string{"git"}, args...)
	env := []string{
		"PATH=" + os.Getenv("PATH"),
		"LC_ALL=C",
		"HOME=" + os.DevNull,
		"XDG_CONFIG_HOME=" + os.DevNull,
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_NO_REPLACE_OBJECTS=1",
		"GIT_TERMINAL_PROMPT=0",
		"GIT_ADVICE=0",
	}
	if dir != "" {
		env = append(env, "GIT_DIR="+dir)
	}
	all := slices.Concat(always, settings)
	if dir != "" {
		all = append(all, Setting{"safe.directory", dir})
	}
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(all)))
	for i, s := range all {
		env = append(env,
			fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, s.Key),
			fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, s.Value))
	}
	return Command{Args: argv, Env: env}
}
