package conduit

import (
	"context"
	"fmt"
	"io"

	"gitcluster/internal/cluster"
	"gitcluster/internal/session"
)

// ServeCommand answers `conduit METHOD` over SSH: standard input holds the
// parameters as JSON, nothing for none, and standard output gets what ServeHTTP would
// answer. id is who calls, which need not be the session's own identity. The status
// is 0 if the call succeeded.
func (c *Conduit) ServeCommand(ctx context.Context, id cluster.Identity, s *session.Session, method string) (status int) {
	params, err := fromStream(s.Stdin)
	q := &call{Conduit: c, method: method, id: id, front: "conduit", remote: s.Remote, arguments: arguments{values: params}}
	q.tell = func(line string) { fmt.Fprintf(s.Stderr, "# %s\n", line) }
	q.answer(ctx, err, func(text []byte, result Result) {
		if _, err := s.Stdout.Write(text); err != nil || result.Code != nil {
			status = 1
		}
	})
	return status
}

func fromStream(stdin io.Reader) (Params, error) {
	text, err := io.ReadAll(io.LimitReader(stdin, maxBody+1))
	if err != nil {
		return nil, faultf(codeCore, "the parameters do not arrive: %v", err)
	}
	if len(text) > maxBody {
		return nil, faultf(codeCore, "the parameters are larger than %d bytes", maxBody)
	}
	params, token, err := fromJSON(text)
	if err == nil && token != "" {
		// Two answers to "who are you" are never weighed against each other.
		err = faultf(codeAuth, "over SSH the key says who calls: leave the token out")
	}
	return params, err
}
