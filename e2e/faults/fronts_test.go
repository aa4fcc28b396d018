package main

import (
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestBranchesIn(t *testing.T) {
	one, two := strings.Repeat("1", 40), strings.Repeat("2", 40)
	want := map[string]string{"main": one, "dir/below": two}
	page := `<h1>Branches</h1><table><tbody><tr><th scope="row"><a href="/faults/r0/-/tree/dir/below">dir/below</a></th>
<td class="subject"><a href="/faults/r0/-/commit/` + two + `">x</a></td></tr>
<tr><th scope="row"><a href="/faults/r0/-/tree/main">main</a> <span class="tag">default</span></th>
<td class="subject"><a href="/faults/r0/-/commit/` + one + `"></a></td></tr></tbody></table>`
	answer := `{"result":[{"shortName":"main","commitIdentifier":"` + one + `"},{"shortName":"dir/below","commitIdentifier":"` + two + `"}],"error_code":null,"read":{"stale":false}}`
	for f, body := range map[front]string{pages: page, conduit: answer} {
		if got, err := branchesIn(f, body); err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: %v, %v", f, got, err)
		}
	}
	for body, f := range map[string]front{
		"<h1>Something else</h1>":                                pages,
		"no JSON":                                                conduit,
		`{"result":null,"error_code":"ERR-X"}`:                   conduit,
		strings.Replace(answer, "false", "true", 1):              conduit,
		strings.Replace(answer, `"stale"`, `"more":true,"x"`, 1): conduit,
	} {
		if got, err := branchesIn(f, body); err == nil {
			t.Errorf("%s of %q: %v", f, body, got)
		}
	}
}

// TestFronts holds that all fronts are drawn, and that nobody pushes by one for reading.
func TestFronts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	drawn := map[bool]map[front]int{true: {}, false: {}}
	for range 2000 {
		for reading := range drawn {
			drawn[reading][chooseFront(random, reading, true)]++
		}
	}
	if len(drawn[true]) != 7 || len(drawn[false]) != 5 || drawn[false][conduit]+drawn[false][pages] > 0 {
		t.Errorf("%v", drawn)
	}
}
