package replica

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"
)

// rank puts the best candidate first: one that has not just failed before one
// that has; then by the DNS's priorities; then of the own region before others; then by the time
// that its first word takes, as far as times differ in earnest. What is left is the order
// in which the user, the DNS or the cluster named them. Hosts of an address go
// before nodes that they only have told of: the user has named them for this
// very command.
func rank(all []Candidate, hosts bool, now time.Time) {
	nearest := farthest
	for _, c := range all {
		nearest = min(nearest, distance(c, farthest))
	}
	slices.SortStableFunc(all, func(a, b Candidate) int {
		return cmp.Or(
			order(now.Before(a.AvoidUntil), now.Before(b.AvoidUntil)),
			order(hosts && a.Learned(), hosts && b.Learned()),
			cmp.Compare(a.Priority, b.Priority),
			order(!a.Near, !b.Near),
			cmp.Compare(distance(a, nearest), distance(b, nearest)),
		)
	})
}

func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

const farthest = 64

// distance is a coarse measure of that time: 0 up to 8 ms, and one more for each
// doubling, so that two machines in one building are equally near whatever the last
// packet took. Where no time is known, a node that the user has named counts as
// if it were as near as the nearest, so that the user's order holds, and one that
// was only learned goes last; the time will be known soon.
func distance(c Candidate, nearest int) int {
	switch {
	case c.Answers > 0:
		return bits.Len64(uint64(c.Answers / (8 * time.Millisecond)))
	case c.Learned():
		return farthest
	}
	return nearest
}

// Why says what put the candidate into its place, in a few words.
func (c Candidate) Why(now time.Time) string {
	var why []string
	if c.Pinned {
		why = append(why, "pinned by $"+EnvReplica)
	}
	if c.Region != "" {
		region := fmt.Sprintf("region %q", c.Region)
		if c.Near {
			region += ", as here"
		}
		why = append(why, region)
	}
	if c.Answers > 0 {
		why = append(why, fmt.Sprintf("answers in %.1f ms", float64(c.Answers.Microseconds())/1000))
	} else {
		why = append(why, "not measured yet")
	}
	if now.Before(c.AvoidUntil) {
		why = append(why, fmt.Sprintf("has failed, so tried last for %v", c.AvoidUntil.Sub(now).Round(time.Second)))
	}
	if c.Learned() {
		why = append(why, "learned from the cluster")
	}
	return strings.Join(why, "; ")
}
