package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// An outcome is what a client knows of what became of its operation.
type outcome string

const (
	done    outcome = "ok"
	refused outcome = "refused" // the server said no, or the client itself did before it sent anything
	unknown outcome = "unknown" // the connection or the client ended before there was an answer
)

// A change is one ref of a push, as the client asked for it: the value that it is
// to have, and the one it must have before if wasKnown. "" is no value.
type change struct {
	Ref      string  `json:"ref"`
	Was      string  `json:"was,omitempty"`
	WasKnown bool    `json:"was_known,omitempty"`
	Value    string  `json:"value,omitempty"`
	Outcome  outcome `json:"outcome"`
	Why      string  `json:"why,omitempty"`
}

// An operation is one command of a client, with its times since the start of the
// run.
type operation struct {
	Client  int               `json:"client"`
	Number  int               `json:"number"`
	Kind    string            `json:"kind"`
	Repo    string            `json:"repo"`
	Front   front             `json:"front"`
	Address string            `json:"address"`
	Pinned  string            `json:"pinned,omitempty"`
	Start   time.Duration     `json:"start"`
	End     time.Duration     `json:"end"`
	Outcome outcome           `json:"outcome"` // of a push: that of its worst change
	Seen    map[string]string `json:"seen,omitempty"`
	// Only says that Seen has no more than these refs; else it has all.
	Only    []string `json:"only,omitempty"`
	Changes []change `json:"changes,omitempty"`
	Atomic  bool     `json:"atomic,omitempty"`
	// Leftover says that the push was made to rely on what no ref may reach.
	Leftover bool   `json:"leftover,omitempty"`
	Said     string `json:"said,omitempty"`
}

// A history is what happened, and in which order.
type history struct {
	start     time.Time
	unreached time.Duration

	mu         sync.Mutex
	log        io.Writer
	operations []operation
	faults     int
	alive      int           // how often somebody looked whether a node serves
	slowest    time.Duration // of those
	anomalies  []string
	found      func() // called with each of them, if not nil
	wipes      []*wipe
}

// A wipe is a node's disk that is taken away: it holds nothing that was acknowledged
// before the node runs again, and not everything before it is full again.
type wipe struct {
	node               string
	from, runs, refill time.Duration
}

// wipe notes the beginning of one; it must not have taken place yet.
func (h *history) wipe(node string) *wipe {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := &wipe{node, time.Since(h.start), forever, forever}
	h.wipes = append(h.wipes, w)
	return w
}

// ended notes the end of a part of a wipe.
func (h *history) ended(part *time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*part = time.Since(h.start)
}

// wiped counts the nodes whose disks may lack what was acknowledged at a moment or
// later; with all, or long before.
func (h *history) wiped(at time.Duration, all bool) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	nodes := map[string]bool{}
	for _, w := range h.wipes {
		if w.runs >= at || all && w.refill >= at {
			nodes[w.node] = true
		}
	}
	return len(nodes)
}

// noteAlive notes how long a node took when somebody looked whether it serves.
func (h *history) noteAlive(took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alive++
	h.slowest = max(h.slowest, took)
}

func (h *history) now() time.Duration { return time.Since(h.start) }

func (h *history) add(o operation) {
	h.mu.Lock()
	h.operations = append(h.operations, o)
	h.write(o)
	h.mu.Unlock()
	// What no ref reaches goes after a while, here a short one: who finds something
	// there, and asks for it after that, may be refused.
	excused := o.Leftover || o.Kind != "maintain" && o.End-o.Start > h.unreached
	if damaged(o.Said) && !excused {
		h.anomaly("client %d, operation %d, %s at %s%s: %s", o.Client, o.Number, o.Kind, o.Address, o.Pinned, o.Said)
	}
}

// damaged reports whether a client was told what none may ever be told, since
// nobody touches the replicas but the nodes.
func damaged(said string) bool {
	signs := []string{"did not send all necessary objects", "not our ref", "missing necessary objects", "unable to read", "corrupt", "is fenced", "panic"}
	return slices.ContainsFunc(signs, func(sign string) bool { return strings.Contains(said, sign) }) || lacking.MatchString(said)
}

// lacking is how Git complains of an object; of a server it uses nearly the same words.
var lacking = regexp.MustCompile(`Could not read [0-9a-f]{40}`)

// isWiped reports whether a node's disk may lack what it once held.
func (h *history) isWiped(node string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.wipes, func(w *wipe) bool { return w.node == node && w.refill == forever })
}

// of returns the operations on a repository.
func (h *history) of(repo string) (all []operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.operations {
		if o.Repo == repo {
			all = append(all, o)
		}
	}
	return all
}

// anomaly notes what must not happen.
func (h *history) anomaly(what string, a ...any) {
	text := fmt.Sprintf(what, a...)
	h.note("anomaly: %s", text)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.anomalies = append(h.anomalies, text)
	if h.found != nil {
		h.found()
	}
}

// note logs what the injector or the run itself does.
func (h *history) note(what string, a ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.write(struct {
		At   time.Duration `json:"at"`
		What string        `json:"what"`
	}{h.now(), fmt.Sprintf(what, a...)})
}

// write writes one line. The caller holds mu. A log that cannot be written is
// missed by nobody but who looks into a failure.
func (h *history) write(v any) {
	line, err := json.Marshal(v)
	if err == nil {
		h.log.Write(append(line, '\n'))
	}
}

// A register is one ref of one repository.
type register struct{ repo, ref string }

func (r register) String() string { return r.repo + " " + r.ref }

// An access is an operation as one register sees it.
type access struct {
	read     bool
	value    string // read, or to be written
	was      string // what a write replaces
	wasKnown bool
	outcome  outcome
	by       string // for people
}

// forever is the end of an operation that may still take place.
const forever = time.Duration(math.MaxInt64)

// registerModel is a ref as a client may understand it: what is read is what was
// written last, a push finds the value it names, and one that is refused because of
// the value finds another. What nobody knows of may happen at any time, or never:
// a place at the very end, where nobody looks, stands for that.
var registerModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		value, a := state.(string), input.(access)
		fits := !a.wasKnown || a.was == value
		switch {
		case a.read:
			return a.value == value, value
		case a.outcome == done:
			return fits, a.value
		case a.outcome == refused:
			return !fits, value
		case fits:
			return true, a.value
		}
		return true, value
	},
	DescribeOperation: func(input, _ any) string {
		a := input.(access)
		switch {
		case a.read:
			return fmt.Sprintf("%s reads %.8q", a.by, a.value)
		case !a.wasKnown:
			return fmt.Sprintf("%s writes %.8q: %s", a.by, a.value, a.outcome)
		}
		return fmt.Sprintf("%s writes %.8q over %.8q: %s", a.by, a.value, a.was, a.outcome)
	},
	DescribeState: func(state any) string { return fmt.Sprintf("%.8q", state) },
}

// registers sorts the history by register. real tells of a change with an unknown
// outcome whether anybody has ever seen its effect; others are left out, because
// each doubles the orders that are possible.
func (h *history) registers(real func(repo string, c change) bool) map[register][]porcupine.Operation {
	all := map[register][]porcupine.Operation{}
	refs, reads := map[string]map[string]bool{}, map[string][]map[string]string{}
	for _, o := range h.operations {
		if refs[o.Repo] == nil {
			refs[o.Repo] = map[string]bool{}
		}
		for _, c := range o.Changes {
			refs[o.Repo][c.Ref] = true
		}
		for ref := range o.Seen {
			if setOf(ref) == "" {
				refs[o.Repo][ref] = true
			}
		}
		reads[o.Repo] = append(reads[o.Repo], o.Seen)
	}
	members := map[register][]string{} // of sets, those that differ
	for repo := range refs {
		for set := range sets {
			members[register{repo, set}] = unlike(set, reads[repo])
		}
	}
	for _, o := range h.operations {
		add := func(ref string, end time.Duration, a access) {
			a.by = fmt.Sprintf("client %d, operation %d, %s at %s%s", o.Client, o.Number, o.Kind, o.Address, o.Pinned)
			which := members[register{o.Repo, ref}]
			if which == nil {
				which = []string{ref}
			}
			torn := a.read && tornIn(o.Seen)[ref]
			for _, ref := range which {
				if torn {
					a.value = o.Seen[ref]
				}
				r := register{o.Repo, ref}
				all[r] = append(all[r], porcupine.Operation{ClientId: o.Client, Input: a, Call: int64(o.Start), Return: int64(end)})
			}
		}
		for _, c := range o.Changes {
			a := access{value: c.Value, was: c.Was, wasKnown: c.WasKnown, outcome: c.Outcome}
			switch {
			case c.Outcome == unknown && real(o.Repo, c):
				add(c.Ref, forever, a)
			case c.Outcome == done, c.Outcome == refused && c.WasKnown && becauseOfValue(c.Why):
				add(c.Ref, o.End, a)
			}
		}
		if o.Seen == nil {
			continue
		}
		looked := o.Only
		if looked == nil {
			looked = slices.Collect(maps.Keys(refs[o.Repo]))
		}
		for _, ref := range looked {
			add(ref, o.End, access{read: true, value: o.Seen[ref]})
		}
	}
	return all
}

// becauseOfValue reports whether a push of one ref was refused because the ref had
// another value than it named.
func becauseOfValue(why string) bool {
	for _, said := range []string{"stale info", "fetch first", "reference already exists"} {
		if strings.Contains(why, said) {
			return true
		}
	}
	return false
}

// unlinearizable lists the registers whose history no order explains, with the
// operations of the longest beginning that one does and what follows it.
func unlinearizable(all map[register][]porcupine.Operation, patience time.Duration) (anomalies []string) {
	for _, r := range slices.SortedFunc(maps.Keys(all), func(a, b register) int { return strings.Compare(a.String(), b.String()) }) {
		switch porcupine.CheckOperationsTimeout(registerModel, all[r], patience) {
		case porcupine.Illegal:
			_, info := porcupine.CheckOperationsVerbose(registerModel, all[r], patience)
			anomalies = append(anomalies, fmt.Sprintf("no order explains %s:\n%s", r, explain(all[r], info)))
		case porcupine.Unknown:
			anomalies = append(anomalies, fmt.Sprintf("%s: %d operations could not be checked within %v", r, len(all[r]), patience))
		}
	}
	return anomalies
}

// explain shows where the longest order that porcupine found ends, and what it has
// no place for.
func explain(operations []porcupine.Operation, info porcupine.LinearizationInfo) string {
	var longest []int
	for _, partition := range info.PartialLinearizations() {
		for _, order := range partition {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	var b strings.Builder
	show := func(i int) {
		o := operations[i]
		end := "…"
		if o.Return != int64(forever) {
			end = time.Duration(o.Return).Round(time.Millisecond).String()
		}
		fmt.Fprintf(&b, "  %v to %s: %s\n", time.Duration(o.Call).Round(time.Millisecond), end, registerModel.DescribeOperation(o.Input, nil))
	}
	fmt.Fprintf(&b, "  the end of an order for %d of %d operations:\n", len(longest), len(operations))
	for _, i := range longest[max(0, len(longest)-6):] {
		show(i)
	}
	rest := slices.Collect(func(yield func(int) bool) {
		for i := range operations {
			if !slices.Contains(longest, i) && !yield(i) {
				return
			}
		}
	})
	slices.SortFunc(rest, func(a, b int) int { return int(operations[a].Call - operations[b].Call) })
	fmt.Fprintf(&b, "  and what has no place in it:\n")
	for _, i := range rest[:min(len(rest), 8)] {
		show(i)
	}
	return b.String()
}
