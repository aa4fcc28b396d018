package main

import (
	"fmt"
	"testing"
	"time"
)

// TestTornSets has readers meet a push of many refs of which Git has written some: that is
// in order while the push goes on, for each ref by itself, and at no other time.
func TestTornSets(t *testing.T) {
	torn := func(news int) map[string]string {
		seen := map[string]string{}
		for i, ref := range unfold(someRefs) {
			if seen[ref] = "old"; i < news {
				seen[ref] = "new"
			}
		}
		return seen
	}
	for name, c := range map[string]struct {
		good  bool
		reads []operation
	}{
		"while it is written":  {true, []operation{{Start: 12, End: 13, Seen: torn(100)}, {Start: 14, End: 15, Seen: torn(200)}, {Start: 25, End: 26, Seen: map[string]string{someRefs: "new"}}}},
		"before it":            {false, []operation{{Start: 6, End: 7, Seen: torn(100)}}},
		"after it":             {false, []operation{{Start: 22, End: 23, Seen: torn(299)}}},
		"one back in time":     {false, []operation{{Start: 12, End: 13, Seen: torn(100)}, {Start: 14, End: 15, Seen: torn(99)}}},
		"whole, and then torn": {false, []operation{{Start: 12, End: 13, Seen: map[string]string{someRefs: "new"}}, {Start: 14, End: 15, Seen: torn(299)}}},
	} {
		h := &history{operations: []operation{
			{Start: 1, End: 2, Changes: []change{{Ref: someRefs, Value: "old", WasKnown: true, Outcome: done}}},
			{Start: 10, End: 20, Changes: []change{{Ref: someRefs, Was: "old", WasKnown: true, Value: "new", Outcome: done}}},
		}}
		for i, o := range c.reads {
			o.Client, o.Number = 1, i
			h.operations = append(h.operations, o)
		}
		found := unlinearizable(h.registers(func(string, change) bool { return true }), time.Minute)
		if (len(found) == 0) != c.good {
			t.Errorf("%s: %.300s", name, fmt.Sprint(found))
		}
	}
}
