package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"gitcluster/e2e/faults/failpoint"
	"gitcluster/internal/clustertest"
)

// A fault is one thing that goes wrong, and for how long.
type fault struct {
	kind   string
	after  time.Duration // since the one before began
	node   int
	other  int
	lasts  time.Duration
	point  string // of the kind "step"
	action string
	choice uint64 // what else is random
}

func (f fault) String() string {
	text := fmt.Sprintf("%s node%d", f.kind, f.node+1)
	switch f.kind {
	case "cut", "cut one way", "cut journal one way":
		text += fmt.Sprintf(" node%d", f.other+1)
	case "clock jump":
		text += fmt.Sprintf(" by %v", f.jumps())
	case "step":
		text += " " + f.action + " at " + f.point
	}
	return fmt.Sprintf("%s, %v", text, f.lasts.Round(time.Millisecond))
}

// powerLoss is what may happen at a step beside the actions that the node itself knows:
// it is killed, and loses what it has not synced.
const powerLoss = "power loss"

// means is what a fault needs that not every machine has.
type means int

const (
	nothing means = iota
	links         // between the nodes, each a machine of its own as far as the network goes
	preload       // a library that the Git processes of a node load
	clocks        // of nodes that can be set
)

// kinds are the faults and how often each is drawn.
var kinds = []struct {
	name   string
	weight int
	needs  means
}{
	{"kill", 8, nothing},
	{"kill two", 2, nothing},
	{"power cut", 2, nothing}, // of all
	{"power loss", 5, preload},
	{"pause", 8, nothing},
	{"slow", 5, nothing}, // runs a tenth of the time
	{"slow disk", 7, preload},
	{"clock jump", 6, clocks},
	{"step", 34, nothing},
	{"kill git", 8, nothing}, // one of the node's children alone
	{"cut", 6, links},
	{"cut one way", 4, links},
	{"isolate", 6, links},     // from the other nodes
	{"cut journal", 6, links}, // from the other nodes' journal servers, and they from its own
	{"cut journal one way", 3, links},
	{"cut peers", 6, links}, // from the other nodes, but not from the journal
	{"cut clients", 5, links},
	{"full disk", 3, links},
	{"wipe", 2, nothing},    // all replicas of a node are gone
	{"restore", 2, nothing}, // and here there are older ones
	{oneFaulty, 8, nothing}, // and nothing else, and the others must serve
}

// shortestPause is the least time from the beginning of a fault to that of the next.
const shortestPause = 200 * time.Millisecond

// draw makes the schedule of a run: n faults of the kinds that are planned and for which
// there are means.
func draw(seed uint64, n int, has []means, p Plan) []fault {
	random := rand.New(rand.NewPCG(seed, 1<<32))
	var names []string
	for _, k := range kinds {
		if slices.Contains(has, k.needs) && (len(p.Only) == 0 || slices.Contains(p.Only, k.name)) {
			names = append(names, slices.Repeat([]string{k.name}, k.weight)...)
		}
	}
	if len(names) == 0 {
		return nil
	}
	points, actions := steps, []string{failpoint.Kill, powerLoss, failpoint.Stop, failpoint.Wait}
	if len(p.Points) > 0 {
		points = p.Points
	}
	if len(p.Actions) > 0 {
		actions = p.Actions
	}
	schedule := make([]fault, n)
	for i := range schedule {
		f := fault{kind: names[random.IntN(len(names))], node: random.IntN(3), choice: random.Uint64(),
			after: shortestPause + time.Duration(random.Int64N(int64(max(p.Pause, shortestPause)))),
			lasts: 100*time.Millisecond + time.Duration(random.Int64N(int64(3*time.Second)))}
		f.other = (f.node + 1 + random.IntN(2)) % 3
		f.point, f.action = points[random.IntN(len(points))], actions[random.IntN(len(actions))]
		if f.point == "answer" && random.IntN(2) == 0 && len(p.Actions) == 0 {
			f.action = failpoint.Lose
		}
		if random.IntN(12) == 0 {
			f.lasts *= 4 // longer than most of what waits does
		}
		f.lasts *= time.Duration(max(1, p.Longer))
		if f.kind == "full disk" {
			f.node = 2
		}
		schedule[i] = f
	}
	return schedule
}

// An injector makes faults happen.
type injector struct {
	most    int // at a time
	cluster *clustertest.Cluster
	links   *clustertest.Links // or nil
	history *history
	states  map[string]string // by node: what its disk remembers, where it does
	older   string            // where an older copy of a node's replicas is kept
	disk    string            // the small one that the third node's replicas are on, or ""
	looked  chan struct{}     // closed when, after the end, faults may be undone
	busy    []sync.Mutex
	refill  func(ctx context.Context, node string) error // waits until a node has everything again
	alone   sync.Mutex                                   // held by what must not happen to two nodes at once
	failed  chan error
	witness witness
	asking  sync.Mutex                // held while the witness is at work
	calm    sync.RWMutex              // held by what must be the only fault
	holds   func(n *clustertest.Node) // looks whether a disk has what it was counted for
}

// run makes the faults of the schedule until the context ends, and undoes all of
// them.
func (i *injector) run(ctx context.Context, schedule []fault) error {
	slots := make(chan struct{}, i.most)
	var all sync.WaitGroup
	defer all.Wait()
	for _, f := range schedule {
		if !sleep(ctx, f.after) {
			return nil
		}
		select {
		case slots <- struct{}{}:
		case err := <-i.failed:
			return err
		case <-ctx.Done():
			return nil
		}
		all.Go(func() {
			defer func() { <-slots }()
			if err := i.inject(ctx, f); err != nil {
				select {
				case i.failed <- fmt.Errorf("%s: %w", f, err):
				default:
				}
			}
		})
	}
	return errors.New("the schedule is at its end")
}

// inject makes one fault happen, waits, and undoes it.
func (i *injector) inject(ctx context.Context, f fault) error {
	n := i.cluster.Nodes[f.node]
	if f.kind == oneFaulty {
		return i.checkOthers(ctx, f, n)
	}
	i.calm.RLock()
	defer i.calm.RUnlock()
	switch f.kind {
	case "cut", "cut one way", "isolate", "cut journal", "cut journal one way", "cut peers", "cut clients":
		return i.cut(ctx, f)
	case "kill two", "power cut":
		return i.killSeveral(ctx, f)
	}
	i.busy[f.node].Lock()
	defer i.busy[f.node].Unlock()
	if ctx.Err() != nil {
		return nil
	}
	if !n.Running() {
		i.history.anomaly("%s ended by itself", n.Name)
		return start(n)
	}
	if f.kind != "step" {
		i.begin(f)
	}
	switch f.kind {
	case "kill":
		n.Kill()
		i.wait(ctx, f.lasts)
		return start(n)
	case "pause":
		release := n.Hold()
		i.wait(ctx, f.lasts)
		release()
		return nil
	case "slow":
		for end := time.Now().Add(2 * f.lasts); time.Now().Before(end) && ctx.Err() == nil; {
			release := n.Hold()
			pause(45 * time.Millisecond)
			release()
			pause(5 * time.Millisecond)
		}
		return nil
	case "step":
		return i.step(ctx, f, n)
	case "kill git":
		i.killChild(f, n)
		return nil
	case "clock jump":
		return i.jump(ctx, f, n)
	case "slow disk":
		return i.slowDisk(ctx, f, n)
	case "power loss":
		n.Kill()
		i.wait(ctx, f.lasts)
		return errors.Join(i.losePower(f, n), start(n))
	case "full disk":
		return i.fill(ctx, f, n)
	case "wipe", "restore":
		return i.wipe(ctx, f, n)
	}
	return fmt.Errorf("unknown kind %q", f.kind)
}

func (i *injector) begin(f fault) {
	i.history.note("fault: %s", f)
	i.history.mu.Lock()
	i.history.faults++
	i.history.mu.Unlock()
}

func (i *injector) killSeveral(ctx context.Context, f fault) error {
	var down []*clustertest.Node
	for k, n := range i.cluster.Nodes { // always in this order, or two could wait for each other
		if f.kind == "power cut" || k != f.other {
			i.busy[k].Lock()
			defer i.busy[k].Unlock()
			down = append(down, n)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	i.begin(f)
	for _, n := range down {
		n.Kill()
	}
	i.wait(ctx, f.lasts)
	for _, n := range down {
		if f.kind == "power cut" {
			if err := i.losePower(f, n); err != nil {
				return err
			}
		}
		if err := n.Launch(); err != nil {
			return err
		}
	}
	for _, n := range down {
		if err := n.AwaitReady(startLimit); err != nil {
			return err
		}
	}
	return nil
}

// startLimit is longer than any fault beside it keeps a node from the journal.
const startLimit = 2 * time.Minute

func start(n *clustertest.Node) error {
	if err := n.Launch(); err != nil {
		return err
	}
	return n.AwaitReady(startLimit)
}

// step waits until the node comes to a point of its code, and has it end or stop
// there. If it does not come there soon, nothing has happened.
func (i *injector) step(ctx context.Context, f fault, n *clustertest.Node) error {
	file := armed(n)
	action := f.action
	if action == powerLoss {
		action = failpoint.Kill
	}
	if err := failpoint.Arm(file, f.point, action); err != nil {
		return err
	}
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end) && ctx.Err() == nil; pause(10 * time.Millisecond) {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if unused, err := failpoint.Disarm(file); err != nil || unused {
		return err
	}
	i.begin(f)
	switch f.action {
	case failpoint.Kill, powerLoss:
		n.Kill() // it did that itself; this waits for its end
		i.wait(ctx, f.lasts)
		if f.action == powerLoss {
			if err := i.losePower(f, n); err != nil {
				return err
			}
		}
		return start(n)
	case failpoint.Stop:
		release := n.Hold() // the signal that stops it may still be on its way
		i.wait(ctx, f.lasts)
		release()
	}
	return nil
}

func armed(n *clustertest.Node) string { return n.Data + ".failpoint" }

// wait lets a fault last. One that the end finds lasts until the disks have been
// looked at.
func (i *injector) wait(ctx context.Context, d time.Duration) {
	if !sleep(ctx, d) {
		<-i.looked
	}
}

// sleep waits, and reports whether the context still goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func pause(d time.Duration) { time.Sleep(d) }
