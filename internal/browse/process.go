package browse

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// errEnough ends a command whose further output nobody needs.
var errEnough = errors.New("enough was read")

// bound gives a question its time.
func (r *Repo) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, r.browser.maxTime, ErrTooLong)
}

// stream runs c and hands what it prints to read while it prints it. If read
// returns errEnough, the command is ended and that is no error. If the command fails, its
// error is the one returned, else read's.
func (r *Repo) stream(ctx context.Context, c gitcmd.Command, stdin io.Reader, read func(*bufio.Reader) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	p, err := r.browser.run.Start(ctx, c, gitexec.IO{Stdin: stdin, Stdout: in})
	in.Close()
	if err != nil {
		return err
	}
	err = read(bufio.NewReaderSize(out, 32<<10))
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		stop(err)
	}
	ended := p.Wait()
	switch {
	case errors.Is(err, errEnough):
		return nil
	case ended != nil:
		return ended
	}
	return err
}

// text reads up to the delimiter, which it drops. It keeps at most limit bytes of a longer text and
// reports that it is cut. At the end of the stream it returns io.EOF, or io.ErrUnexpectedEOF behind
// a text without delimiter.
func text(rd *bufio.Reader, delimiter byte, limit int) (s string, cut bool, err error) {
	var kept []byte
	for {
		part, err := rd.ReadSlice(delimiter)
		if err == nil {
			part = part[:len(part)-1]
		}
		room := limit - len(kept)
		if len(part) > room {
			part, cut = part[:room], true
		}
		if err == nil && kept == nil {
			return string(part), cut, nil
		}
		kept = append(kept, part...)
		switch {
		case err == nil:
			return string(kept), cut, nil
		case err == bufio.ErrBufferFull:
		case err == io.EOF && len(kept) > 0:
			return string(kept), cut, io.ErrUnexpectedEOF
		default:
			return "", cut, err
		}
	}
}

// explain makes cluster.ErrNotFound of the failure of a command that was given an
// object id that is not there or of another type than wanted; TypeTree wants what leads to one.
// Asking beforehand would cost every question that has a good answer.
func (r *Repo) explain(ctx context.Context, err error, wanted string, oids ...cluster.OID) error {
	var exit *gitexec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	objects := r.objects(ctx)
	defer objects.close()
	found, failed := objects.stat(oids)
	if failed != nil {
		return err
	}
	for i, o := range found {
		leads := wanted == TypeTree && (o.kind == TypeCommit || o.kind == TypeTag)
		if o.kind != wanted && !leads {
			return noObject(oids[i], wanted)
		}
	}
	return err
}

func noObject(oid cluster.OID, wanted string) error {
	return fmt.Errorf("%s %s: %w", wanted, oid, cluster.ErrNotFound)
}

func noPath(path string) error {
	if len(path) > 200 {
		path = path[:200] + "…"
	}
	return fmt.Errorf("path %q: %w", path, cluster.ErrNotFound)
}

// checkOIDs makes sure that what becomes a word of a command is nothing but an object id
// of this repository's hash.
func (r *Repo) checkOIDs(oids ...cluster.OID) error {
	for _, oid := range oids {
		if _, err := cluster.ParseOID(string(oid)); err != nil {
			return fmt.Errorf("%w: %w", ErrBadQuery, err)
		}
		if len(oid) != r.digits() {
			return noObject(oid, "object")
		}
	}
	return nil
}

// digits is the length of a whole object id.
func (r *Repo) digits() int { return len(r.format.Zero()) }

// The bounds of paths: what Git itself can check out, and what a command line has room for.
const (
	maxPath  = 4096
	maxPaths = 100
)

// cleanPath checks a path and takes slashes around it away. A path that no tree can have is
// one that is not there.
func cleanPath(path string) (string, error) {
	path = strings.Trim(path, "/")
	if path == "" {
		return "", nil
	}
	if len(path) > maxPath || strings.IndexByte(path, 0) >= 0 {
		return "", noPath(path)
	}
	for part := range strings.SplitSeq(path, "/") {
		// Git would take ".." for a way out of the repository.
		if part == "" || part == "." || part == ".." {
			return "", noPath(path)
		}
	}
	return path, nil
}

func cleanPaths(paths []string) ([]string, error) {
	if len(paths) > maxPaths {
		return nil, fmt.Errorf("%w: more than %d paths", ErrBadQuery, maxPaths)
	}
	var clean []string
	for _, p := range paths {
		p, err := cleanPath(p)
		if err != nil {
			return nil, err
		}
		if p == "" {
			return nil, nil // the top includes every other
		}
		clean = append(clean, p)
	}
	return clean, nil
}

// checkText checks a text that becomes part of a command's words.
func checkText(what, s string) error {
	const most = 4096
	if len(s) > most || strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("%w: the %s is longer than %d bytes or has a NUL byte", ErrBadQuery, what, most)
	}
	return nil
}

// window cuts an offset and a limit to what one call may ask for.
func window(offset, limit int) (int, int, error) {
	switch {
	case offset < 0 || limit < 0:
		return 0, 0, fmt.Errorf("%w: a negative offset or limit", ErrBadQuery)
	case offset > maxOffset:
		return 0, 0, fmt.Errorf("%w: an offset above %d", ErrBadQuery, maxOffset)
	case limit == 0:
		limit = 100
	}
	return offset, min(limit, maxLimit), nil
}
