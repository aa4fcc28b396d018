package peer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"gitcluster/internal/cluster"
	"gitcluster/internal/sshclient"
)

// CopyCommand is the command line by which a node has another take a copy of a
// push's objects.
//
// The conversation: an [Offer]; what the taker has of it; a thin pack; and the
// taker's word that everything is complete and synced to its disk. All but the
// pack are one line of JSON each. The taker says what it has, rather than
// the giver guessing by versions, because a replica that lags would otherwise get
// a pack whose bases it lacks.
const CopyCommand = "cluster-peer-copy"

// An Offer is what a node asks another to take a copy of.
type Offer struct {
	Repo  cluster.RepoID    `json:"repo"`
	Refs  []cluster.RefName `json:"refs"` // that the push changes
	Wants []cluster.OID     `json:"wants"`
}

// A Taker takes copies.
type Taker interface {
	// Known returns values whose history the taker holds: the pack may leave out
	// what they reach.
	Known(ctx context.Context, o Offer) ([]cluster.OID, error)
	// Take stores a pack of what the offer's wants reach and haves, which Known
	// returned, do not. When it returns without an error the history of wants is
	// complete and synced to the disk of that incarnation.
	Take(ctx context.Context, o Offer, haves []cluster.OID, pack io.Reader) (incarnation string, err error)
}

// A TakerCloser is a Taker on another node, for one offer.
type TakerCloser interface {
	Taker
	io.Closer
}

type known struct {
	Haves []cluster.OID `json:"haves"`
	Error string        `json:"error,omitempty"`
}

type taken struct {
	Incarnation string `json:"incarnation"`
	Error       string `json:"error,omitempty"`
}

// maxLine bounds a line of the conversation: an offer of so many refs as one push
// may have, with their names.
const maxLine = 64 << 20

// Taker opens a conversation with a node that is to take a copy.
func (p *Peers) Taker(ctx context.Context, on cluster.DeviceName) (TakerCloser, error) {
	conn, err := p.connect(ctx, on)
	if err != nil {
		return nil, err
	}
	c := &conversation{}
	c.session, err = conn.Start(ctx, CopyCommand, nil, &c.stderr)
	if err != nil {
		if !errors.Is(err, sshclient.ErrRefused) {
			p.drop(on, conn)
		}
		return nil, err
	}
	c.in = bufio.NewReader(c.session)
	return c, nil
}

type conversation struct {
	session *sshclient.Session
	in      *bufio.Reader
	stderr  tail
}

func (c *conversation) Known(_ context.Context, o Offer) ([]cluster.OID, error) {
	var k known
	if err := json.NewEncoder(c.session).Encode(o); err != nil {
		return nil, c.lost(err)
	}
	if err := readLine(c.in, &k); err != nil {
		return nil, c.lost(err)
	}
	if k.Error != "" {
		return nil, errors.New(k.Error)
	}
	return k.Haves, nil
}

func (c *conversation) Take(_ context.Context, _ Offer, _ []cluster.OID, pack io.Reader) (string, error) {
	var t taken
	// A pack that did not come to its end must not look as if it had: the taker
	// would find it broken, but only after work.
	if _, err := io.Copy(c.session, pack); err != nil {
		return "", c.lost(err)
	}
	if err := c.session.CloseWrite(); err != nil {
		return "", c.lost(err)
	}
	if err := readLine(c.in, &t); err != nil {
		return "", c.lost(err)
	}
	if t.Error != "" || t.Incarnation == "" {
		return "", errors.New("it took no copy: " + t.Error)
	}
	return t.Incarnation, nil
}

// lost adds what the other side said when it broke off. Its answer may be waiting
// although the pack could not be sent to its end.
func (c *conversation) lost(err error) error {
	var t taken
	if c.in.Buffered() > 0 && readLine(c.in, &t) == nil && t.Error != "" {
		return errors.New("it took no copy: " + t.Error)
	}
	said := c.stderr.String()
	if older(said) {
		return errOlder
	}
	if said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

func (c *conversation) Close() error { return c.session.Close() }

// ServeCopy is the taker's side of a conversation.
func ServeCopy(ctx context.Context, to Taker, r io.Reader, w io.Writer) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var o Offer
	if err := readLine(in, &o); err != nil {
		return fmt.Errorf("read the offer: %w", err)
	}
	if err := o.check(); err != nil {
		return err
	}
	answer := json.NewEncoder(w)
	haves, err := to.Known(ctx, o)
	if err != nil {
		answer.Encode(known{Error: err.Error()})
		return err
	}
	if err := answer.Encode(known{Haves: haves}); err != nil {
		return err
	}
	incarnation, err := to.Take(ctx, o, haves, in)
	if err != nil {
		answer.Encode(taken{Error: err.Error()})
		return err
	}
	return answer.Encode(taken{Incarnation: incarnation})
}

func (o Offer) check() error {
	if _, err := cluster.ParseRepoID(string(o.Repo)); err != nil {
		return err
	}
	if len(o.Wants) == 0 || len(o.Wants) > maxQuestion || len(o.Refs) > maxQuestion {
		return fmt.Errorf("an offer of %d objects for %d refs", len(o.Wants), len(o.Refs))
	}
	for _, oid := range o.Wants {
		// They become lines of what Git reads.
		if _, err := cluster.ParseOID(string(oid)); err != nil {
			return err
		}
	}
	return nil
}

// readLine reads one line of JSON.
func readLine(in *bufio.Reader, v any) error {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxLine {
			return fmt.Errorf("a line of more than %d bytes from a peer", maxLine)
		}
		switch {
		case err == nil:
			return json.Unmarshal(line, v)
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		default:
			return err
		}
	}
}
