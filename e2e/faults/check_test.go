package main

import (
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

// TestCount gives the comparison of clients and journal histories in which one thing
// is wrong, or nothing.
func TestCount(t *testing.T) {
	oid := func(name string) string { return strings.Repeat(name, 40)[:40] }
	op := func(client int, atomic bool, changes ...change) operation {
		for i := range changes {
			changes[i].WasKnown = true
		}
		return operation{Client: client, Kind: "push", Atomic: atomic, Changes: changes}
	}
	set := func(ref, was, now string, o outcome) change {
		return change{Ref: "refs/heads/" + ref, Was: was, Value: now, Outcome: o, Why: "why"}
	}
	push := func(v int, id string, client int, updates ...string) landed {
		p := landed{Version: cluster.Version(v), ID: id, Actor: actor(client), Copies: []cluster.DeviceName{"a", "b"}}
		for _, u := range updates {
			w := strings.Split(u, " ")
			p.Updates = append(p.Updates, cluster.RefUpdate{Ref: cluster.RefName("refs/heads/" + w[0]), Old: cluster.OID(w[1]), New: cluster.OID(w[2])})
		}
		return p
	}
	a, b := oid("a"), oid("b")
	made := op(0, false, set("m", "", a, done))
	gone := func(client int, o outcome) operation { return op(client, false, set("m", a, "", o)) }
	for name, c := range map[string]struct {
		lost       int
		wrong      string // in what is found, or "" for nothing
		log        journalLog
		operations []operation
	}{
		"nothing":                             {0, "", journalLog{push(1, "p", 0, "m  "+a), push(2, "q", 1, "m "+a+" ")}, []operation{made, gone(1, done)}},
		"lost":                                {1, "was acknowledged", nil, []operation{made}},
		"twice":                               {0, "2 times", journalLog{push(1, "p", 0, "m  "+a), push(2, "q", 0, "m  "+a)}, []operation{made}},
		"refused and there":                   {0, "was refused (why) and is in version 1", journalLog{push(1, "p", 0, "m  "+a)}, []operation{op(0, false, set("m", "", a, refused))}},
		"nobody's":                            {0, "nobody pushed", journalLog{push(1, "p", 0, "m  "+a)}, nil},
		"another's":                           {0, "nobody pushed", journalLog{push(1, "p", 1, "m  "+a)}, []operation{op(0, false, set("m", "", a, unknown))}},
		"a deletion lost":                     {1, "was acknowledged", journalLog{push(1, "p", 0, "m  "+a)}, []operation{made, gone(1, done)}},
		"a refused deletion":                  {0, "was refused (why) and is in version 2", journalLog{push(1, "p", 0, "m  "+a), push(2, "q", 1, "m "+a+" ")}, []operation{made, gone(1, refused)}},
		"a refused deletion that another did": {0, "", journalLog{push(1, "p", 0, "m  "+a), push(2, "q", 2, "m "+a+" ")}, []operation{made, gone(1, refused), gone(2, done)}},
		"a deletion refused and tried again":  {0, "", journalLog{push(1, "p", 0, "m  "+a), push(2, "q", 1, "m "+a+" ")}, []operation{made, gone(1, refused), gone(1, done)}},
		"a deletion refused and unknown":      {0, "", journalLog{push(1, "p", 0, "m  "+a), push(2, "q", 1, "m "+a+" ")}, []operation{made, gone(1, refused), gone(1, unknown)}},
		"half of an atomic push":              {0, "parts missing: true", journalLog{push(1, "p", 0, "m  "+a)}, []operation{op(0, true, set("m", "", a, unknown), set("n", "", b, unknown))}},
		"half of an atomic deletion": {0, "parts missing: true", journalLog{push(1, "p", 0, "m  "+a), push(2, "q", 1, "m "+a+" ")},
			[]operation{made, op(1, true, set("m", a, "", unknown), set("n", "", b, unknown))}},
		"one push as two":   {0, "as 2 pushes", journalLog{push(1, "p", 0, "m  "+a), push(2, "q", 0, "n  "+b)}, []operation{op(0, false, set("m", "", a, done), set("n", "", b, done))}},
		"two pushes as one": {0, "is of 2 operations", journalLog{push(1, "p", 0, "m  "+a, "n  "+b)}, []operation{made, op(0, false, set("n", "", b, done))}},
	} {
		t.Run(name, func(t *testing.T) {
			var s Summary
			found := strings.Join(s.count(c.log, c.operations), "\n")
			if s.Lost != c.lost || (c.wrong == "") != (found == "") || !strings.Contains(found, c.wrong) {
				t.Errorf("%d lost, found %q; want %d and %q", s.Lost, found, c.lost, c.wrong)
			}
		})
	}
}
