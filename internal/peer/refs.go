package peer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/repository"
	"gitcluster/internal/sshclient"
)

// RefsCommand is the command line, before the repository's id, by which a node
// asks another what its replica shows: a line of JSON, then "OID ref" for each of
// so many refs.
const RefsCommand = "cluster-peer-refs"

type refsHead struct {
	cluster.Position
	Head  cluster.RefName `json:"head"`
	Count int             `json:"count"`
}

// Refs returns the refs that another node's replica shows, and at which position.
// The caller has to compare their digest with one that the journal names.
func (p *Peers) Refs(ctx context.Context, from cluster.DeviceName, id cluster.RepoID) (cluster.Position, *repository.RefTable, error) {
	conn, err := p.connect(ctx, from)
	if err != nil {
		return cluster.Position{}, nil, err
	}
	s := &stream{cancel: func() {}}
	s.session, err = conn.Start(ctx, RefsCommand+" "+string(id), nil, &s.stderr)
	if err != nil {
		if !errors.Is(err, sshclient.ErrRefused) {
			p.drop(from, conn)
		}
		return cluster.Position{}, nil, err
	}
	defer s.session.Close()
	s.session.CloseWrite()
	return readRefs(s)
}

func readRefs(r io.Reader) (at cluster.Position, table *repository.RefTable, err error) {
	in := bufio.NewReaderSize(r, 64<<10)
	var h refsHead
	if err := readLine(in, &h); err != nil {
		return at, nil, err
	}
	if h.Count < 0 || h.Count > maxQuestion {
		return at, nil, fmt.Errorf("a peer tells of %d refs", h.Count)
	}
	table = repository.NewRefTable()
	for range h.Count {
		line, err := in.ReadString('\n')
		if err != nil {
			return at, nil, orUnexpected(err)
		}
		text, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		oid, err := cluster.ParseOID(text)
		if err != nil {
			return at, nil, err
		}
		ref, err := cluster.ParseRefName(name)
		if err != nil {
			return at, nil, err
		}
		table.Set(ref, oid)
	}
	table.SetHead(h.Head)
	return h.Position, table, nil
}

// A RefWriter gives what a replica shows to write.
type RefWriter interface {
	WriteRefs(ctx context.Context, id cluster.RepoID, write func(at cluster.Position, head cluster.RefName, refs []cluster.RefUpdate) error) error
}

// ServeRefs answers another node's question.
func ServeRefs(ctx context.Context, from RefWriter, id cluster.RepoID, w io.Writer) error {
	return from.WriteRefs(ctx, id, func(at cluster.Position, head cluster.RefName, refs []cluster.RefUpdate) error {
		out := bufio.NewWriterSize(w, 64<<10)
		if err := json.NewEncoder(out).Encode(refsHead{Position: at, Head: head, Count: len(refs)}); err != nil {
			return err
		}
		for _, u := range refs {
			out.WriteString(string(u.New) + " " + string(u.Ref) + "\n")
		}
		return out.Flush()
	})
}

func orUnexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
