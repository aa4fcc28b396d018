package browse

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// An object is what is known of an object; kind is "" if it is not there.
type object struct {
	kind string
	size int64
	data []byte // if it was asked for
}

// objects reads objects for one call: small ones of small repositories in this process,
// through an index that is kept from call to call, all others through one
// `git cat-file` that is started when it is first needed. An object that the index
// does not have may have come since, so Git is asked before it counts as missing.
type objects struct {
	repo  *Repo
	ctx   context.Context
	kept  *index // nil if there is none, or it failed
	tried bool
	git   *catFile
}

func (r *Repo) objects(ctx context.Context) *objects {
	return &objects{repo: r, ctx: ctx}
}

func (o *objects) close() {
	if o.kept != nil {
		o.repo.browser.give(o.kept)
	}
	if o.git != nil {
		o.git.close()
	}
}

// index returns the kept index, or nil.
func (o *objects) index() *index {
	if !o.tried {
		o.tried = true
		o.kept = o.repo.browser.take(o.repo.dir, o.repo.format)
	}
	return o.kept
}

// read returns an object whose contents are whole if they have at most limit bytes, else its
// beginning. One that is not there is cluster.ErrNotFound.
func (o *objects) read(oid cluster.OID, limit int64) (object, error) {
	if err := context.Cause(o.ctx); err != nil {
		return object{}, err
	}
	if kept := o.index(); kept != nil {
		got, err := kept.read(oid)
		switch {
		case err == nil:
			if int64(len(got.data)) > limit {
				got.data = got.data[:limit]
			}
			return got, nil
		case !errors.Is(err, errTooLarge):
			o.kept = nil // it is out of date; the next call makes another
		}
	}
	git, err := o.catFile()
	if err != nil {
		return object{}, err
	}
	var got object
	if limit > 0 {
		got, err = git.read(oid, limit)
	} else if found, failed := git.stat([]cluster.OID{oid}); failed == nil {
		got = found[0]
	} else {
		err = failed
	}
	if err == nil && got.kind == "" {
		err = noObject(oid, "object")
	}
	return got, err
}

// manySizes is where one Git process is faster than the index, which opens a pack for each.
const manySizes = 32

// stat returns type and size of each object.
func (o *objects) stat(oids []cluster.OID) ([]object, error) {
	if len(oids) == 0 {
		return nil, nil
	}
	git, err := o.catFile()
	if err != nil {
		return nil, err
	}
	return git.stat(oids)
}

// sizes returns the size of each blob; 0 for one that is not there.
func (o *objects) sizes(oids []cluster.OID) ([]int64, error) {
	sizes := make([]int64, len(oids))
	if kept := o.index(); kept != nil && len(oids) <= manySizes {
		missed := false
		for i, oid := range oids {
			var err error
			if sizes[i], err = kept.size(oid); err != nil {
				o.kept, missed = nil, true
				break
			}
		}
		if !missed {
			return sizes, nil
		}
	}
	found, err := o.stat(oids)
	for i, f := range found {
		sizes[i] = f.size
	}
	return sizes, err
}

func (o *objects) catFile() (*catFile, error) {
	if o.git != nil && !o.git.ended {
		return o.git, nil
	}
	if o.git != nil {
		o.git.close()
	}
	var err error
	o.git, err = o.repo.startCatFile(o.ctx)
	return o.git, err
}

// A catFile is a `git cat-file` that answers questions one after the other.
type catFile struct {
	ctx    context.Context
	stop   context.CancelCauseFunc
	p      *gitexec.Process
	ask    *os.File // not an io.Pipe: writing to one whose reader has died would wait for ever
	out    *os.File
	answer *bufio.Reader
	ended  bool // nothing more can be asked
}

func (r *Repo) startCatFile(ctx context.Context) (*catFile, error) {
	c := &catFile{}
	c.ctx, c.stop = context.WithCancelCause(ctx)
	questions, ask, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer questions.Close()
	out, in, err := os.Pipe()
	if err != nil {
		ask.Close()
		return nil, err
	}
	defer in.Close()
	c.p, err = r.browser.run.Start(c.ctx, gitcmd.ReadObjects(r.dir), gitexec.IO{Stdin: questions, Stdout: in})
	if err != nil {
		ask.Close()
		out.Close()
		c.stop(nil)
		return nil, err
	}
	c.ask, c.out, c.answer = ask, out, bufio.NewReaderSize(out, 32<<10)
	return c, nil
}

func (c *catFile) close() {
	c.stop(errEnough)
	c.ask.Close()
	c.out.Close()
	c.p.Wait()
}

// fail gives the reason for which an answer did not come.
func (c *catFile) fail(err error) error {
	c.ended = true
	if cause := context.Cause(c.ctx); cause != nil {
		return cause
	}
	return fmt.Errorf("git cat-file: %w", err)
}

func (c *catFile) send(questions string) error {
	if _, err := io.WriteString(c.ask, questions+"flush\n"); err != nil {
		return c.fail(err)
	}
	return nil
}

// info reads one line of answer.
func (c *catFile) info() (object, error) {
	line, _, err := text(c.answer, '\n', 2048)
	if err != nil {
		return object{}, c.fail(err)
	}
	// What comes first is the question, which has no space, or the id it stands for.
	_, rest, _ := strings.Cut(line, " ")
	if rest == "missing" || rest == "ambiguous" {
		return object{}, nil
	}
	kind, size, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 {
		return object{}, c.fail(fmt.Errorf("unexpected answer %q", line))
	}
	return object{kind: kind, size: n}, nil
}

// stat asks for all at once; a question is an object id or a full ref name. Git reads every question before it answers, so
// neither side waits for the other.
func (c *catFile) stat(oids []cluster.OID) ([]object, error) {
	var questions strings.Builder
	for _, oid := range oids {
		questions.WriteString("info " + string(oid) + "\n")
	}
	if err := c.send(questions.String()); err != nil {
		return nil, err
	}
	found := make([]object, len(oids))
	for i := range found {
		var err error
		if found[i], err = c.info(); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (c *catFile) read(oid cluster.OID, limit int64) (object, error) {
	if err := c.send("contents " + string(oid) + "\n"); err != nil {
		return object{}, err
	}
	o, err := c.info()
	if err != nil || o.kind == "" {
		return o, err
	}
	var data bytes.Buffer
	if _, err := io.CopyN(&data, c.answer, min(o.size, limit)); err != nil {
		return object{}, c.fail(err)
	}
	o.data = data.Bytes()
	if o.size > limit {
		c.ended = true // the rest would stand in the way of the next answer
	} else if _, err := c.answer.Discard(1); err != nil {
		return object{}, c.fail(err)
	}
	return o, nil
}
