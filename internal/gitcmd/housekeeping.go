package gitcmd

import "gitcluster/internal/cluster"

// The commands of housekeeping. None of them removes an object, or a pack: that is
// for the caller, who first syncs what they wrote.

// gentle keeps a repack from taking the machine from those who wait for it.
var gentle = []Setting{
	{"pack.threads", "1"},
}

// RollUp reads the names of packs ("pack-….pack") on standard input and writes one
// pack of everything that is in them and of all loose objects, reached by a ref or
// not, to files whose names begin with base. It prints the rest of the name.
func RollUp(dir, base string) Command {
	return repack(dir, "--stdin-packs", "--unpacked", "--delta-base-offset", "--non-empty", "-q", base)
}

// PackReached writes one pack of everything that a ref reaches, with a bitmap, to
// files whose names begin with base, and prints the rest of the name. It fails when
// an object is missing.
func PackReached(dir, base string) Command {
	return repack(dir, "--all", "--keep-true-parents", "--write-bitmap-index", "--delta-base-offset", "--non-empty", "-q", base)
}

// PackListed reads object ids on standard input and writes one pack of them to
// files whose names begin with base. It prints the rest of the name.
func PackListed(dir, base string) Command {
	return repack(dir, "--delta-base-offset", "--non-empty", "-q", base)
}

// IndexPackAgain writes the index of a pack that is in the repository.
func IndexPackAgain(dir, pack string) Command {
	c := command(dir, gentle, "index-pack", pack)
	c.Writes = true
	return c
}

func repack(dir string, args ...string) Command {
	c := command(dir, gentle, append([]string{"pack-objects"}, args...)...)
	c.Writes = true
	return c
}

// PrunePacked removes loose objects that are in a pack.
func PrunePacked(dir string) Command {
	c := command(dir, nil, "prune-packed", "-q")
	c.Writes = true
	return c
}

// PackRefs writes all refs to one file, and leaves those that are files of their own.
func PackRefs(dir string) Command {
	c := command(dir, nil, "pack-refs", "--all", "--no-prune")
	c.Writes = true
	return c
}

// CommitGraph writes the file that lets Git walk history without reading commits,
// and find those that change a path.
func CommitGraph(dir string) Command {
	c := command(dir, nil, "commit-graph", "write", "--split", "--reachable", "--changed-paths", "--no-progress")
	c.Writes = true
	return c
}

// ListObjects reads revisions on standard input and prints the id of each object
// that the plain ones reach and those with "^" do not.
func ListObjects(dir string) Command {
	return command(dir, walking, "rev-list", "--objects", "--no-object-names", "--stdin")
}

// ListStrays prints "OID ref" for every ref that belongs to this replica alone.
func ListStrays(dir string) Command {
	return command(dir, nil, "for-each-ref", "--format=%(objectname) %(refname)", cluster.StraysPrefix)
}

// walking holds where a walk has to prove that objects are there: the commit graph
// knows commits that may not be.
var walking = []Setting{{"core.commitGraph", "false"}}
