package journal

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// kinds says what the members are, without their names: "voter learner".
func (r *ring) kinds(n *ringNode) string {
	list, err := n.client.MemberList(r.t.Context())
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, m := range list.Members {
		kind := "voter"
		if m.IsLearner {
			kind = "learner"
		}
		all = append(all, kind)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// A server that dies between the two promotions leaves two voters. That does not
// stay so: first the dead one loses its place, and when nobody comes for it, one of
// the two begins again as a learner. A third that comes later makes three voters.
func TestServerDiesBetweenPromotions(t *testing.T) {
	t.Parallel()
	r := newRing(t)
	one := r.start("one", freeAddr(), "")
	two, third := r.join("two", one), r.join("three", one)
	r.states(one, "one:voter two:learner three:learner")
	waitFor(t, func() string {
		if _, err := one.client.MemberPromote(t.Context(), two.server().id()); err != nil {
			return err.Error() // it is not ready yet
		}
		return ""
	})
	third.stop()
	for i, n := range []*ringNode{one, two} {
		r.seated(n, []string{"one", "two"}[i], 0)
		n.deadAfter, n.pairFor = 15*time.Second, 300*time.Millisecond // a learner that starts may be silent for seconds
		r.follow(n)
	}
	waitFor(t, func() string {
		if got := r.kinds(one); got != "learner voter" {
			return "the servers are " + got
		}
		return ""
	})
	r.works(one)
	r.works(two)
	four := r.join("four", one)
	r.follow(four)
	r.states(one, "one:voter two:voter four:voter")
}

// A learner that is down loses its place only if it keeps somebody from it.
func TestDeadLearner(t *testing.T) {
	r := newRing(t)
	one := r.start("one", freeAddr(), "")
	two := r.join("two", one)
	r.states(one, "one:voter two:learner")
	two.stop()
	one.deadAfter = 0
	judge := func() []*etcdserverpb.Member {
		t.Helper()
		list, err := one.client.MemberList(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := one.judge(t.Context(), list.Members); err != nil {
			t.Fatal(err)
		}
		return list.Members
	}
	for range 3 {
		if got := judge(); len(got) != 2 {
			t.Fatalf("a learner that is in nobody's way is gone: %v", got)
		}
	}
	third := r.join("three", one)
	r.states(one, "one:voter two:learner three:learner")
	waitFor(t, func() string { // else it is taken for a dead one, too
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := one.status(ctx, third.addr); err != nil {
			return fmt.Sprintf("three gives no answer: %v", err)
		}
		return ""
	})
	judge()
	r.states(one, "one:voter three:learner")
	one.seen = judgement{}
	one.startWithin, one.deadAfter = time.Hour, time.Hour
	r.admit(one, "four", freeAddr())
	for range 3 {
		if got := judge(); len(got) != 3 {
			t.Fatalf("one that may yet start is gone: %v", got)
		}
	}
	one.startWithin = 0
	judge()
	r.states(one, "one:voter three:learner")
	// Who does not lead judges nobody.
	third.deadAfter, third.startWithin = 0, 0
	r.admit(one, "five", freeAddr())
	list, err := third.client.MemberList(t.Context())
	if err == nil {
		err = third.judge(t.Context(), list.Members)
	}
	if got := r.kinds(one); err != nil || got != "learner learner voter" {
		t.Errorf("the servers are %s, %v", got, err)
	}
}
