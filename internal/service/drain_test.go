package service

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
)

// draining is a directory in which this node takes no pushes; it notes how many
// were in progress when it was asked.
type draining struct {
	service *Service
	counted []int
}

func (d *draining) Snapshot() *access.Directory {
	d.counted = append(d.counted, d.service.Pushes())
	return access.NewDirectory([]cluster.Device{{Name: "a", Node: true, Enabled: true}}, nil, nil, nil)
}

func (d *draining) Refresh(context.Context) (*access.Directory, error) { return d.Snapshot(), nil }

// A push is counted before it may begin: else one could slip between a drain and
// the count that says the node may be stopped.
func TestPushIsCountedBeforeItBegins(t *testing.T) {
	d := &draining{}
	d.service = New(Options{Device: "a", Directory: d, Engine: engine.New(engine.Options{Device: "a"}), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := d.service.ReceivePack(t.Context(), Request{Repo: "x"}); !errors.Is(err, cluster.ErrDraining) {
		t.Fatal(err)
	}
	if len(d.counted) == 0 || d.counted[0] != 1 || d.service.Pushes() != 0 {
		t.Errorf("counted %v, and %d afterwards", d.counted, d.service.Pushes())
	}
}
