// Package doctor looks for what keeps this machine from using a cluster, or
// its node from serving one: what `git cluster doctor` does.
//
// Entry point: [Doctor.Examine].
//
// It promises to change nothing, to ask nobody anything, to end in bounded time
// whatever servers do, and to say of everything that is not well what can be done
// about it.
package doctor

import (
	"context"
	"fmt"
	"time"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/replica"
)

// A Level says how serious a finding is.
type Level string

// The levels. With Warn it works, but not well or not for long.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "fail"
)

// A Finding is one thing that was looked at.
type Finding struct {
	Level Level  `json:"level"`
	Check string `json:"check"` // what was looked at: "git", "node repo001"
	Found string `json:"found"`
	Do    string `json:"do,omitempty"` // what can be done about it
}

// A Doctor examines one machine, for one person.
type Doctor struct {
	Getenv  func(string) string
	Environ []string
	Version string // of this program
	// Clusters names those of the client's configuration to look at.
	Clusters []string
	// Candidates lists the nodes of one of them, best first.
	Candidates func(ctx context.Context, name string) ([]replica.Candidate, error)
	// Repository, if not "", is one that every node should show the newest version of.
	Repository string
	// Client is what is wrong with the client's file; nil if nothing is.
	Client error
	// Data is the data directory of the node on this machine; "" if there is none.
	Data string
	// Status asks that node.
	Status func(ctx context.Context) (admin.Status, error)

	report func(Finding)
	failed bool
}

// patience bounds what is asked of one server.
const patience = 10 * time.Second

// Examine looks at everything and reports each finding when it is made. It
// returns whether nothing failed.
func (d *Doctor) Examine(ctx context.Context, report func(Finding)) bool {
	d.report = report
	d.programs(ctx)
	d.client(ctx)
	if d.Data != "" {
		d.node(ctx)
	}
	return !d.failed
}

func (d *Doctor) say(level Level, check, format string, a ...any) {
	d.tell(level, check, "", format, a...)
}

func (d *Doctor) tell(level Level, check, do, format string, a ...any) {
	d.failed = d.failed || level == Fail
	d.report(Finding{Level: level, Check: check, Found: fmt.Sprintf(format, a...), Do: do})
}

// fault reports an error with its own hint, or else with do.
func (d *Doctor) fault(level Level, check string, err error, do string) {
	if hint := cluster.Hint(err); hint != "" {
		do = hint
	}
	d.tell(level, check, do, "%v", err)
}
