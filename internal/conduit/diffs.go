package conduit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
)

var diffMethods = map[string]method{
	"diffusion.rawdiffquery": {
		about: "Gives the difference that a commit made, or between two commits, in Git's format.",
		gives: "dict",
		params: reading(map[string]string{
			"commit":         "required string",
			"path":           "optional string",
			"againstCommit":  "optional string",
			"linesOfContext": "optional int (default = 3)",
			"timeout":        "optional int",
			"byteLimit":      "optional int",
		}),
		run: rawDiffQuery,
	},
	"diffusion.diffquery": {
		about: "Gives the difference that the last change of a path made, in parts.",
		gives: "dict",
		params: reading(map[string]string{
			"path":   "optional string",
			"commit": "optional string",
		}),
		run: diffQuery,
	},
}

func rawDiffQuery(ctx context.Context, q *call) (any, error) {
	q.required("commit")
	name, against, limit := q.path("path"), q.text("againstCommit"), q.byteLimit()
	query := browse.DiffQuery{Context: q.number("linesOfContext", 3, 100)}
	if query.Context == 0 {
		query.Context = -1 // none; 0 would mean the default
	}
	if name != "" {
		query.Paths = []string{name}
	}
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		if query.New, err = q.commit(ctx, r); err != nil {
			return nil, err
		}
		if against != "" {
			if query.Old, err = commitOf(ctx, r, against); err != nil {
				return nil, err
			}
		}
		text, truncated, err := r.RawDiff(ctx, query, limit)
		if errors.Is(err, browse.ErrTooLong) {
			return content{TooSlow: true}, nil
		}
		if err != nil {
			return nil, err
		}
		c := content{TooHuge: truncated}
		if !truncated {
			c.fill(text)
		}
		return c, nil
	})
}

// Kinds of changes, with Phabricator's numbers.
const (
	changeAdd      = 1
	changeModify   = 2
	changeDelete   = 3
	changeMoveAway = 4
	changeMoveHere = 6
	changeCopyHere = 7
)

// A change is what happened to one path, in the form of Arcanist's parser.
type change struct {
	Metadata    map[string]string `json:"metadata"`
	OldPath     *string           `json:"oldPath"`
	CurrentPath string            `json:"currentPath"`
	AwayPaths   []string          `json:"awayPaths"`
	Old         map[string]string `json:"oldProperties"`
	New         map[string]string `json:"newProperties"`
	Type        int               `json:"type"`
	FileType    int               `json:"fileType"`
	CommitHash  *string           `json:"commitHash"`
	Hunks       []hunk            `json:"hunks"`
}

type hunk struct {
	OldOffset    int    `json:"oldOffset"`
	NewOffset    int    `json:"newOffset"`
	OldLength    int    `json:"oldLength"`
	NewLength    int    `json:"newLength"`
	AddLines     int    `json:"addLines"`
	DelLines     int    `json:"delLines"`
	MissingOldNL bool   `json:"isMissingOldNewline"`
	MissingNewNL bool   `json:"isMissingNewNewline"`
	Corpus       string `json:"corpus"`
}

func diffQuery(ctx context.Context, q *call) (any, error) {
	name := q.path("path")
	q.text("commit")
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		effective, err := q.commit(ctx, r)
		if err != nil {
			return nil, err
		}
		query := browse.DiffQuery{MaxFiles: maxLimit, MaxTotal: 10_000}
		if name != "" {
			query.Paths = []string{name}
			last, _, err := r.History(ctx, browse.HistoryQuery{From: []cluster.OID{effective}, Paths: query.Paths, Limit: 1})
			if err != nil {
				return nil, err
			}
			if len(last) == 0 {
				return nil, faultf(codePath, "%q in the history of %s: %w", clip(name), effective, cluster.ErrNotFound)
			}
			effective = last[0].OID
		}
		query.New = effective
		d, err := r.Diff(ctx, query)
		if err != nil {
			return nil, err
		}
		all := []change{}
		q.read.More = d.Truncated
		for _, f := range d.Files {
			q.read.More = q.read.More || f.Truncated
			all = append(all, changeOf(f))
			if f.Status == browse.StatusRenamed {
				all = append(all, change{
					Metadata: map[string]string{}, OldPath: &f.OldPath, CurrentPath: f.OldPath, AwayPaths: []string{f.NewPath},
					Old: map[string]string{}, New: map[string]string{}, Type: changeMoveAway, FileType: fileTypeOf(f), Hunks: []hunk{},
				})
			}
		}
		return map[string]any{"changes": all, "effectiveCommit": effective}, nil
	})
}

func changeOf(f browse.FileDiff) change {
	c := change{
		Metadata: map[string]string{}, OldPath: &f.OldPath, CurrentPath: f.NewPath, AwayPaths: []string{},
		Old: mode(f.OldMode), New: mode(f.NewMode), Type: changeModify, FileType: fileTypeOf(f), Hunks: []hunk{},
	}
	switch f.Status {
	case browse.StatusAdded:
		c.Type, c.OldPath = changeAdd, nil
	case browse.StatusDeleted:
		c.Type = changeDelete
	case browse.StatusRenamed:
		c.Type = changeMoveHere
	case browse.StatusCopied:
		c.Type = changeCopyHere
	}
	for _, h := range f.Hunks {
		c.Hunks = append(c.Hunks, hunkOf(h))
	}
	return c
}

func hunkOf(h browse.Hunk) hunk {
	out := hunk{OldOffset: h.OldStart, NewOffset: h.NewStart, OldLength: h.OldCount, NewLength: h.NewCount}
	var text strings.Builder
	for _, line := range h.Lines {
		switch line.Kind {
		case '+':
			out.AddLines++
		case '-':
			out.DelLines++
		}
		text.WriteByte(line.Kind)
		text.WriteString(line.Text)
		text.WriteByte('\n')
		if line.NoEOL {
			text.WriteString("\\ No newline at end of file\n")
			out.MissingOldNL = out.MissingOldNL || line.Kind != '+'
			out.MissingNewNL = out.MissingNewNL || line.Kind != '-'
		}
	}
	out.Corpus = text.String()
	return out
}

// mode is the property in which Arcanist keeps a file's mode.
func mode(m browse.Mode) map[string]string {
	if m == 0 {
		return map[string]string{}
	}
	return map[string]string{"unix:filemode": fmt.Sprintf("%06o", m)}
}

func fileTypeOf(f browse.FileDiff) int {
	m := f.NewMode
	if m == 0 {
		m = f.OldMode
	}
	switch {
	case m == browse.ModeSymlink:
		return fileSymlink
	case m == browse.ModeSubmodule:
		return fileSubmodule
	case f.Binary:
		return fileBinary
	}
	return fileText
}
