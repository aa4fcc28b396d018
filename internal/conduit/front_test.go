package conduit

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
	"gitcluster/internal/queue"
)

func TestAbout(t *testing.T) {
	w := newWorld(t)
	if got := result[string](t, w.everyWay("conduit.ping", "")); got != "node1" {
		t.Errorf("ping: %q", got)
	}
	if got := result[map[string][]string](t, w.everyWay("conduit.getcapabilities", "{}")); strings.Join(got["authentication"], ",") != "token" || strings.Join(got["output"], ",") != "json" {
		t.Errorf("capabilities: %v", got)
	}
	methods := result[map[string]struct {
		Description, Return string
		Params              map[string]string
	}](t, w.everyWay("conduit.query", "[]"))
	for name, m := range methods {
		if m.Description == "" || m.Return == "" || strings.HasSuffix(name, "query") && strings.HasPrefix(name, "diffusion.") && m.Params["staleOK"] == "" {
			t.Errorf("%s is described by %+v", name, m)
		}
	}
	if len(methods) != len(w.methods) || methods["diffusion.historyquery"].Params["against"] != "optional string" {
		t.Errorf("%d methods: %v", len(methods), methods)
	}
	if got := code(t, w.everyWay("user.whoami", "")); got != codeAuth {
		t.Errorf("an anonymous whoami: %q", got)
	}
	for token, want := range map[string]string{
		"alice-token": `{"phid":"PHID-USER-alice","userName":"alice","realName":"alice","roles":["activated","approved","admin"]}`,
		"robot-token": `{"phid":"PHID-USER-device/robot","userName":"device/robot","roles":["activated","approved","agent"]}`,
	} {
		var wanted any
		decode(t, want, &wanted)
		answer := w.post("user.whoami", asForm, url.Values{"api.token": {token}}.Encode()).Body.String()
		if why := differs(result[any](t, answer), wanted); why != "" {
			t.Errorf("%s: %s in %s", token, why, answer)
		}
	}
}

// TestWhoCalls goes through the ways to show a token, and those that are refused.
func TestWhoCalls(t *testing.T) {
	w := newWorld(t)
	form := func(pairs ...string) string {
		values := url.Values{}
		for i := 0; i+1 < len(pairs); i += 2 {
			values.Add(pairs[i], pairs[i+1])
		}
		return values.Encode()
	}
	for name, c := range map[string]struct {
		kind, body string
		header     []string
		want       string // the user, or an error code
	}{
		"form":               {asForm, form("api.token", "alice-token"), nil, "alice"},
		"JSON":               {asJSON, `{"api.token":"alice-token"}`, nil, "alice"},
		"Phabricator's form": {asForm, form("params", `{"__conduit__":{"token":"alice-token"}}`, "output", "json", "__conduit__", "true"), nil, "alice"},
		"header":             {asForm, "", []string{"Authorization", "Bearer alice-token"}, "alice"},
		"no body":            {"", "", []string{"Authorization", "Bearer alice-token"}, "alice"},
		"wrong token":        {asForm, form("api.token", "x"), nil, codeAuth},
		"wrong header":       {asForm, "", []string{"Authorization", "Bearer x"}, codeAuth},
		"both":               {asForm, form("api.token", "alice-token"), []string{"Authorization", "Bearer alice-token"}, codeAuth},
		"cookie":             {asForm, "", []string{"Cookie", "__Host-gitcluster=alice-token"}, codeAuth},
		"signed":             {asForm, form("params", `{"__conduit__":{"auth.type":"asymmetric"}}`), nil, codeAuth},
		"no journal":         {asForm, form("api.token", "journal-needed"), nil, codeJournal},
		"text":               {"text/plain", "api.token=alice-token", nil, codeCore},
		"multipart":          {"multipart/form-data; boundary=x", "--x", nil, codeCore},
		"bad form":           {asForm, "a=%zz", nil, codeCore},
		"bad JSON":           {asJSON, "{", nil, codeCore},
		"too large":          {asJSON, `{"a":"` + strings.Repeat("x", maxBody) + `"}`, nil, codeCore},
	} {
		rec := w.post("user.whoami", c.kind, c.body, c.header...)
		answer := rec.Body.String()
		got := code(t, answer)
		if got == "" {
			got = result[struct{ UserName string }](t, answer).UserName
		}
		if got != c.want || rec.Code != http.StatusOK {
			t.Errorf("%s: status %d, %s, want %s", name, rec.Code, answer, c.want)
		}
	}
	for _, query := range []string{form("api.token", "alice-token"), form("params", `{"__conduit__":{"token":"alice-token"}}`), form("params", `{"api.token":"alice-token"}`)} {
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, Prefix+"user.whoami?"+query, nil))
		if got := code(t, rec.Body.String()); got != codeAuth || !strings.Contains(rec.Body.String(), "logs") {
			t.Errorf("a token in an address: %s", rec.Body)
		}
	}
	for name, c := range map[string]struct {
		stdin string
		want  string // an error code, or "" for alice
	}{
		"nothing":   {"", ""},
		"a token":   {`{"api.token":"alice-token"}`, codeAuth},
		"too much":  {strings.Repeat(" ", maxBody+1), codeCore},
		"bad JSON":  {"{", codeCore},
		"no object": {"[1]", codeCore},
	} {
		answer, status := w.ssh(alice, "user.whoami", c.stdin)
		if code(t, answer) != c.want || (status == 0) != (c.want == "") || c.want == "" && !strings.Contains(answer, `"userName":"alice"`) {
			t.Errorf("%s over ssh: status %d, %s", name, status, answer)
		}
	}
	if log := w.log.String(); strings.Contains(log, "alice-token") || !strings.Contains(log, "front=conduit") || !strings.Contains(log, "identity=alice") {
		t.Errorf("the log:\n%s", log)
	}
}

func TestHeaders(t *testing.T) {
	w := newWorld(t).withHistory()
	rec := w.post("diffusion.filecontentquery", asJSON, `{"repository":"demo/hello","path":"src/<b>&\n.c"}`)
	for name, want := range map[string]string{"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "X-Git-Cluster-Version": "7"} {
		if got := rec.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if strings.Contains(w.post("diffusion.browsequery", asJSON, `{"repository":"demo/hello","path":"src"}`).Body.String(), "<b>") {
		t.Error("HTML of a repository is in an answer as it is")
	}
	rec = httptest.NewRecorder()
	w.ServeHTTP(rec, httptest.NewRequest(http.MethodPut, Prefix+"conduit.ping", nil))
	if rec.Code != http.StatusMethodNotAllowed || rec.Header().Get("Allow") == "" {
		t.Errorf("PUT: %d", rec.Code)
	}
}

// TestPrivate: whoever may not read a repository gets the answer for one that is
// not there, however they ask.
func TestPrivate(t *testing.T) {
	w := newWorld(t).withHistory()
	secret := w.host.add("secret/plan", false, w.dirOf("hello"))
	phid := repositoryPHID(secret.ID)
	missing := repositoryPHID("0123456789abcdef")
	for _, method := range []string{"diffusion.branchquery", "diffusion.existsquery", "diffusion.browsequery"} {
		commit := ""
		if method == "diffusion.existsquery" {
			commit = `,"commit":"main"`
		}
		for there, not := range map[string]string{"secret/plan": "secret/nix", phid: missing} {
			a := w.everyWay(method, `{"repository":"`+there+`"`+commit+`}`)
			b := w.everyWay(method, `{"repository":"`+not+`"`+commit+`}`)
			if code(t, a) != codeRepository || strings.ReplaceAll(a, there, "X") != strings.ReplaceAll(b, not, "X") {
				t.Errorf("%s of %s:\n%s%s", method, there, a, b)
			}
		}
	}
	for _, constraint := range []string{`{"shortNames":["secret/plan"]}`, `{"phids":["` + phid + `"]}`, `{"ids":[` + fmt.Sprint(number(secret.ID)) + `]}`, `{"uris":["cluster::secret/plan"]}`} {
		if got := found(t, w.everyWay("diffusion.repository.search", `{"constraints":`+constraint+`}`)); got != "" {
			t.Errorf("a search for %s by nobody: %s", constraint, got)
		}
	}
	for _, name := range []string{"secret/plan", phid, "/secret/plan.git"} {
		r := w.call(alice, "diffusion.branchquery", Params{"repository": name})
		if r.Code != nil || r.Read.Repository != "secret/plan" {
			t.Errorf("alice reads %s: %+v", name, r)
		}
	}
	for _, name := range []string{"", "../etc", "-x", "PHID-REPO-x", strings.Repeat("x", 300), "a\nb"} {
		r := w.call(alice, "diffusion.branchquery", Params{"repository": name})
		if r.Code == nil || *r.Code != codeRepository && *r.Code != codeParameter {
			t.Errorf("%q: %+v", name, r)
		}
	}
}

// TestNameTakenOver: between the look at a PHID's name and the read, the repository
// was renamed and another took its name. That one was not asked for.
func TestNameTakenOver(t *testing.T) {
	w := newWorld(t).withHistory()
	old := w.host.add("old", true, w.dirOf("hello"))
	w.host.moved = "demo/hello"
	for _, method := range []string{"diffusion.branchquery", "diffusion.tagsquery"} {
		if answer := w.everyWay(method, `{"repository":"`+repositoryPHID(old.ID)+`"}`); code(t, answer) != codeRepository {
			t.Errorf("%s: %s", method, answer)
		}
	}
	if got := found(t, w.everyWay("diffusion.repository.search", `{"constraints":{"phids":["`+repositoryPHID(old.ID)+`"]}}`)); got != "" {
		t.Errorf("a search found %s", got)
	}
}

// TestFreshness: a read asks for what is current unless told otherwise, and a
// call that is wrong asks for nothing.
func TestFreshness(t *testing.T) {
	w := newWorld(t).withHistory()
	w.host.cut = true
	phid := repositoryPHID(w.host.repos[0].ID)
	for _, name := range []string{"demo/hello", phid} {
		answer := w.everyWay("diffusion.branchquery", `{"repository":"`+name+`"}`)
		if code(t, answer) != codeJournal || !strings.Contains(answer, "staleOK") {
			t.Errorf("without the journal: %s", answer)
		}
		answer = w.everyWay("diffusion.branchquery", `{"repository":"`+name+`","staleOK":true}`)
		if code(t, answer) != "" || !strings.Contains(answer, `"read":{"repository":"demo/hello","epoch":1,"version":7,"node":"node1","stale":true,"more":false}`) {
			t.Errorf("with staleOK: %s", answer)
		}
	}
	if answer := w.everyWay("diffusion.repository.search", `{}`); code(t, answer) != codeJournal {
		t.Errorf("a search without the journal: %s", answer)
	}
	for _, constraints := range []string{`{}`, `{"shortNames":["demo/hello"]}`, `{"phids":["` + phid + `"]}`} {
		answer := w.everyWay("diffusion.repository.search", `{"staleOK":true,"constraints":`+constraints+`}`)
		if found(t, answer) != "demo/hello" || !strings.Contains(answer, `"read":{"node":"node1","stale":true,"more":false}`) {
			t.Errorf("a search with staleOK: %s", answer)
		}
	}
	before := w.host.reads
	w.everyWay("diffusion.branchquery", `{"repository":"demo/hello","limit":"x"}`)
	w.everyWay("diffusion.branchquery", `{"repository":"demo/hello","lmit":"1"}`)
	if w.host.reads != before {
		t.Error("a call with a wrong parameter made the node synchronize")
	}
}

// TestTimeLimit: the time to read has an end.
func TestTimeLimit(t *testing.T) {
	w := newWorld(t).withHistory()
	w.maxTime = 0
	if answer := w.everyWay("diffusion.historyquery", `{"repository":"demo/hello"}`); code(t, answer) != codeTime {
		t.Errorf("without any time: %s", answer)
	}
}

// found gives the names in the answer to a search.
func found(t *testing.T, answer string) string {
	t.Helper()
	var names []string
	for _, r := range result[struct {
		Data []struct{ Fields struct{ Name string } }
	}](t, answer).Data {
		names = append(names, r.Fields.Name)
	}
	return strings.Join(names, " ")
}

func TestRepositorySearch(t *testing.T) {
	w := newWorld(t)
	a := w.host.add("a", true, "")
	w.host.add("b/c", true, "")
	w.host.add("b/d", false, "")
	w.host.add("e", true, "")
	const method = "diffusion.repository.search"
	for params, want := range map[string]string{
		`{}`:                        "a b/c e",
		`{"queryKey":"active"}`:     "a b/c e",
		`{"order":"name"}`:          "a b/c e",
		`{"order":["name"]}`:        "a b/c e",
		`{"limit":2}`:               "a b/c",
		`{"limit":2,"after":"b/c"}`: "e",
		`{"constraints":{"shortNames":["e","a","e","nix","../x"]}}`:                                                   "a e",
		`{"constraints":{"callsigns":["b/c"],"types":["git","hg"]}}`:                                                  "b/c",
		`{"constraints":{"phids":["` + repositoryPHID(a.ID) + `","PHID-REPO-x"]}}`:                                    "a",
		`{"constraints":{"ids":[3022415462400000,1]}}`:                                                                "a",
		`{"constraints":{"types":["svn"]}}`:                                                                           "",
		`{"constraints":{"status":"closed"}}`:                                                                         "",
		`{"constraints":{"uris":["ssh://git@one.example:2222/a","https://one.example/b/c.git","git@two.example:e"]}}`: "a b/c e",
		`{"constraints":{"uris":["https://elsewhere.example/a","elsewhere.example:a","/a","a"]}}`:                     "",
		`{"constraints":{"shortNames":["a","b/c","e"]},"limit":1,"after":"a"}`:                                        "b/c",
		// Refused.
		`{"queryKey":"x"}`:                                   "!" + codeQueryKey,
		`{"constraints":{"projects":["x"]}}`:                 "!" + codeConstraint,
		`{"constraints":{"phids":["x"],"shortNames":["x"]}}`: "!" + codeConstraint,
		`{"attachments":{"projects":true}}`:                  "!" + codeAttachment,
		`{"limit":101}`:                                      "!" + codePageSize,
		`{"limit":0}`:                                        "!" + codePageSize,
		`{"order":"newest"}`:                                 "!" + codeParameter,
		`{"before":"a"}`:                                     "!" + codeParameter,
		`{"after":"../a"}`:                                   "!" + codeParameter,
		`{"constraints":"x"}`:                                "!" + codeParameter,
	} {
		answer := w.everyWay(method, params)
		if want, ok := strings.CutPrefix(want, "!"); ok {
			if got := code(t, answer); got != want {
				t.Errorf("%s: %s, want %s", params, answer, want)
			}
		} else if got := found(t, answer); got != want {
			t.Errorf("%s: %s, want %q", params, answer, want)
		}
	}
	answer := w.everyWay(method, `{"limit":1,"attachments":{"uris":"1"}}`)
	var want any
	decode(t, `{"cursor":{"limit":1,"after":"a","before":null,"order":null},"query":{"queryKey":null},"data":[{"id":3022415462400000,"type":"REPO","phid":"PHID-REPO-abcdef0000000000",
		"fields":{"name":"a","shortName":"a","vcs":"git","callsign":null,"status":"active","isImporting":false,"dateCreated":1700000000,"policy":{"view":"public"}},
		"attachments":{"uris":{"uris":[{"fields":{"uri":{"raw":"https://one.example:8443/a"},"io":{"effective":"readwrite"},"disabled":false,"builtin":{"protocol":"https"}}},
			{"fields":{"uri":{"raw":"ssh://git@one.example:2222/a","normalized":"one.example/a"},"builtin":{"protocol":"ssh"}}}]}}}]}`, &want)
	if why := differs(result[any](t, answer), want); why != "" {
		t.Errorf("%s in %s", why, answer)
	}
	if got := found(t, w.post(method, asForm, "constraints[shortNames][0]=a&constraints[shortNames][1]=e&limit=100&attachments[uris]=true").Body.String()); got != "a e" {
		t.Errorf("constraints of a form: %q", got)
	}
	pages, after := 0, ""
	for seen := ""; ; {
		r := w.call(cluster.Identity{User: "alice"}, method, Params{"limit": "1", "after": after})
		cursor := r.Value.(map[string]any)["cursor"].(map[string]any)["after"]
		if pages++; cursor == nil || pages > 9 {
			break
		}
		if after = string(cursor.(cluster.RepoName)); after <= seen {
			t.Fatalf("the cursor goes from %q to %q", seen, after)
		}
		seen = after
	}
	if pages != 4 {
		t.Errorf("%d pages, want one for each of alice's repositories", pages)
	}
}

// TestAnswersNotTaken: what callers have not taken yet is in memory, and is bounded. conduit.query has
// the longest answer of those that need no repository.
func TestAnswersNotTaken(t *testing.T) {
	w := newWorld(t)
	w.answers = queue.NewBudget(100<<10, 50<<10)
	give, _ := w.answers.Take("somebody", 99<<10)
	for _, answer := range []string{w.post("conduit.query", asJSON, "").Body.String(), first(w.ssh(alice, "conduit.query", ""))} {
		if !strings.Contains(answer, codeBusy) || len(answer) > smallAnswer {
			t.Errorf("without room: %.200s", answer)
		}
	}
	give()
	for range 20 { // each gives back what it took
		if answer := w.post("conduit.query", asJSON, "").Body.String(); len(answer) <= smallAnswer {
			t.Fatalf("with room again: %.200s", answer)
		}
	}
}

func first(text string, _ int) string { return text }
