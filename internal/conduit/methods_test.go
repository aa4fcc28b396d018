package conduit

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"gitcluster/internal/browse"
)

// entry is a commit in a list, as JSON.
func entry(id, path, subject, message string, committed int64) string {
	details, _ := json.Marshal(commitDetails{"Ann Author", "ann@example.org", &committed, "Carl <carl@example.org>", "Carl", "carl@example.org"})
	quoted, _ := json.Marshal(string(details))
	text, _ := json.Marshal(message)
	return fmt.Sprintf(`{"path":%q,"commitIdentifier":"{%[2]s}","commit":{"repositoryID":null,"phid":null,"commitIdentifier":"{%[2]s}","epoch":%[3]d,"authorPHID":null,"auditStatus":null,"summary":%[4]q,"importStatus":null},
		"commitData":{"commitID":null,"authorName":"Ann Author <ann@example.org>","commitMessage":%[5]s,"commitDetails":%[6]s},
		"fileType":null,"changeType":null,"targetPath":null,"targetCommitIdentifier":null,"awayPaths":[]}`, path, id, committed, subject, text, quoted)
}

func listedEntry(fullPath, path, id string, kind int, size string) string {
	return fmt.Sprintf(`{"fullPath":%q,"path":%q,"hash":"{%s}","fileType":%d,"fileSize":%s,"externalURI":null,"lastModifiedCommit":null,"lastCommitData":null}`, fullPath, path, id, kind, size)
}

// TestMethods looks at every method that reads a repository, in every way to call it.
func TestMethods(t *testing.T) {
	w := newWorld(t).withHistory()
	clock := func(commit string) int64 { return w.clock[commit] }
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(w.log)
		}
	})
	for _, c := range []struct {
		method, params string
		want           string // the result, or a part of the error's text after "!"
		more           bool
	}{
		{"branchquery", `{}`, `[
			{"shortName":"main","commitIdentifier":"{E}","refType":"branch","rawFields":{"objectname":"{E}","objecttype":"commit","refname":"refs/heads/main","subject":"rename",
				"creator":"Ann Author <ann@example.org> {E.time} +0100","author":"Ann Author <ann@example.org>","epoch":{E.time}}},
			{"shortName":"topic","commitIdentifier":"{C}","refType":"branch","rawFields":{"objectname":"{C}","objecttype":"commit","refname":"refs/heads/topic","subject":"topic",
				"creator":"Ann Author <ann@example.org> {C.time} +0100","author":"Ann Author <ann@example.org>","epoch":{C.time}}}]`, false},
		{"branchquery", `{"contains":"{B}","limit":1}`, `[{"shortName":"main"}]`, false},
		{"branchquery", `{"limit":1}`, `[{"shortName":"main"}]`, true},
		{"branchquery", `{"limit":1,"offset":1}`, `[{"shortName":"topic"}]`, false},
		{"branchquery", `{"patterns":["topic","t*"]}`, `[{"shortName":"topic"}]`, false},
		{"branchquery", `{"patterns":["*"]}`, `[]`, false},
		{"branchquery", `{"closed":true}`, `[]`, false},
		{"branchquery", `{"contains":"--all"}`, `!ERR-UNKNOWN-COMMIT`, false},

		{"tagsquery", `{"needMessages":true}`, `[
			{"author":"Carl <carl@example.org>","epoch":{T.time},"commitIdentifier":"{D}","name":"v1","description":"release one","type":"git/tag","message":"release one\n\nnotes\n"},
			{"author":"Ann Author <ann@example.org>","epoch":{A.time},"commitIdentifier":"{A}","name":"light","description":"first","type":"git/commit"},
			{"commitIdentifier":"{A}","name":"rel/1","description":"first","type":"git/commit"}]`, false},
		{"tagsquery", `{"names":["light","v*","-l","rel","nix"]}`, `[{"name":"light"}]`, false},
		{"tagsquery", `{"names":[]}`, `[]`, false},
		{"tagsquery", `{"commit":"{D}"}`, `[{"name":"v1"}]`, false},

		{"refsquery", `{"commit":"{E}"}`, `[{"ref":"main","href":"/demo/hello/-/tree/refs/heads/main"}]`, false},
		{"refsquery", `{"commit":"v1"}`, `[{"ref":"tag: v1","href":"/demo/hello/-/tree/refs/tags/v1"}]`, false},
		{"refsquery", `{}`, `!ERR-INVALID-PARAMETER`, false},

		{"resolverefs", `{"refs":["main","v1","light","{B}","HEAD","nix","--all","HEAD:README","HEAD@{1}",""]}`, `{
			"main":[{"type":"branch","identifier":"{E}"}],"v1":[{"type":"tag","identifier":"{D}","alternate":"{T}"}],"light":[{"type":"tag","identifier":"{A}","alternate":"{A}"}],
			"{B}":[{"type":"commit","identifier":"{B}"}],"HEAD":[{"type":"branch","identifier":"{E}"}]}`, false},
		{"resolverefs", `{"refs":["main","v1"],"types":["tag"]}`, `{"v1":[{"type":"tag","identifier":"{D}","alternate":"{T}"}]}`, false},
		{"resolverefs", `{}`, `!ERR-INVALID-PARAMETER`, false},

		{"browsequery", `{}`, `{"isValidResults":true,"reasonForEmptyResultSet":null,"existedAtCommit":null,"deletedAtCommit":null,"paths":[` +
			listedEntry("src", "src", "src", 4, "null") + "," + listedEntry("README", "README", "README", 7, "12") + "," +
			listedEntry("link", "link", "link", 5, "6") + "," + listedEntry("raw", "raw", "raw", 7, "3") + `]}`, false},
		{"browsequery", `{"path":"/src/","commit":"main"}`, `{"paths":[` + listedEntry("src/<b>&\n.c", "<b>&\n.c", "evil", 7, "7") + "," + listedEntry("src/start.c", "start.c", "start", 7, "30") + `]}`, false},
		{"browsequery", `{"limit":1,"offset":1}`, `{"paths":[` + listedEntry("README", "README", "README", 7, "12") + `]}`, true},
		{"browsequery", `{"offset":1000}`, `{"paths":[],"isValidResults":true}`, false},
		{"browsequery", `{"path":"src","needValidityOnly":true}`, `{"paths":[],"isValidResults":true}`, false},
		{"browsequery", `{"path":"README"}`, `{"paths":[],"isValidResults":false,"reasonForEmptyResultSet":"is-file"}`, false},
		{"browsequery", `{"path":"gone"}`, `{"isValidResults":false,"reasonForEmptyResultSet":"is-deleted","deletedAtCommit":"{B}","existedAtCommit":"{A}"}`, false},
		{"browsequery", `{"path":"nix"}`, `{"isValidResults":false,"reasonForEmptyResultSet":"nonexistent"}`, false},
		{"browsequery", `{"commit":"nix"}`, `{"isValidResults":false,"reasonForEmptyResultSet":"bad-commit"}`, false},
		{"browsequery", `{"path":"../../etc"}`, `{"isValidResults":false,"reasonForEmptyResultSet":"nonexistent"}`, false},
		{"browsequery", `{"limit":1001}`, `!ERR-INVALID-PARAMETER`, false},
		{"browsequery", `{"commit":["main"]}`, `!ERR-INVALID-PARAMETER`, false},

		{"filecontentquery", `{"path":"README","commit":"HEAD"}`, `{"tooSlow":false,"tooHuge":false,"filePHID":null,"content":"hello\nworld!","encoding":"utf-8","size":12,"hash":"{README}"}`, false},
		{"filecontentquery", `{"path":"README","branch":"topic"}`, `{"content":"hello\nworld\n"}`, false},
		{"filecontentquery", `{"path":"raw"}`, `{"content":"//4A","encoding":"base64","size":3}`, false},
		{"filecontentquery", `{"path":"src/<b>&\n.c"}`, `{"content":"int x;\n"}`, false},
		{"filecontentquery", `{"path":"README","byteLimit":11}`, `{"tooHuge":true,"content":null,"size":12}`, false},
		{"filecontentquery", `{"path":"README","byteLimit":12}`, `{"tooHuge":false}`, false},
		{"filecontentquery", `{"path":"src"}`, `!ERR-UNKNOWN-PATH`, false},
		{"filecontentquery", `{"path":"nix"}`, `!ERR-UNKNOWN-PATH`, false},
		{"filecontentquery", `{"path":"README","commit":"nix"}`, `!ERR-UNKNOWN-COMMIT`, false},
		{"filecontentquery", `{"path":"/"}`, `!ERR-UNKNOWN-PATH`, false},

		{"querypaths", `{"path":"src","commit":"main"}`, `["src/<b>&\n.c","src/start.c"]`, false},
		{"querypaths", `{"pattern":"art"}`, `["src/start.c"]`, false},
		{"querypaths", `{"limit":2,"offset":1}`, `["link","raw"]`, true},
		{"querypaths", `{"path":"nix"}`, `[]`, false},

		{"searchquery", `{"grep":"^int (x|main)"}`, `[["src/<b>&\n.c","1","int x;"],["src/start.c","1","int main(void)"]]`, false},
		{"searchquery", `{"grep":"int","limit":1}`, `[["src/<b>&\n.c","1","int x;"]]`, true},
		{"searchquery", `{"grep":"int","limit":1,"offset":1}`, `[["src/start.c","1","int main(void)"]]`, false},
		{"searchquery", `{"grep":"world","path":"src"}`, `[]`, false},
		{"searchquery", `{"grep":"--open-files-in-pager=x"}`, `[]`, false},
		{"searchquery", `{"grep":"("}`, `!ERR-INVALID-PARAMETER`, false},
		{"searchquery", `{"grep":"x","path":"../src"}`, `!ERR-UNKNOWN-PATH`, false},
		{"searchquery", `{"path":"src"}`, `!ERR-INVALID-PARAMETER`, false},

		{"historyquery", `{"limit":2}`, `{"pathChanges":[` + entry("E", "", "rename", "rename\n", clock("E")) + "," + entry("D", "", "merge topic", "merge topic\n", clock("D")) + `],
			"parents":{"{E}":["{D}"],"{D}":["{B}","{C}"]}}`, true},
		{"historyquery", `{"path":"README","commit":"main"}`, `{"pathChanges":[` + entry("E", "README", "rename", "rename\n", clock("E")) + "," + entry("A", "README", "first", "first\n\nwith a body\n", clock("A")) + `],"parents":{"{A}":[]}}`, false},
		{"historyquery", `{"commit":"topic","against":"{A}"}`, `{"pathChanges":[` + entry("C", "", "topic", "topic\n", clock("C")) + `]}`, false},
		{"historyquery", `{"commit":"topic","offset":1}`, `{"parents":{"{A}":[]}}`, false},
		{"historyquery", `{"offset":100001}`, `!ERR-INVALID-PARAMETER`, false},
		{"historyquery", `{"commit":"main..topic"}`, `!ERR-UNKNOWN-COMMIT`, false},

		{"lastmodifiedquery", `{"paths":{"README":"main","/src/start.c":"HEAD","src":"{D}","nix":"main","":"main"}}`, `{"README":"{E}","/src/start.c":"{E}","src":"{C}","":"{E}"}`, false},
		{"lastmodifiedquery", `{"paths":{"README":"nix"}}`, `!ERR-UNKNOWN-COMMIT`, false},
		{"lastmodifiedquery", `{"paths":[]}`, `!ERR-INVALID-PARAMETER`, false},

		{"commitparentsquery", `{"commit":"{D}"}`, `["{B}","{C}"]`, false},
		{"commitparentsquery", `{"commit":"{A}"}`, `[]`, false},
		{"existsquery", `{"commit":"{A}"}`, `true`, false},
		{"existsquery", `{"commit":"0123456789012345678901234567890123456789"}`, `false`, false},
		{"existsquery", `{"commit":"--help"}`, `false`, false},
		{"mergedcommitsquery", `{"commit":"{D}"}`, `[` + entry("C", "", "topic", "topic\n", clock("C")) + `]`, false},
		{"mergedcommitsquery", `{"commit":"{E}"}`, `[]`, false},

		{"rawdiffquery", `{"commit":"{E}","path":"README"}`, `{"tooSlow":false,"tooHuge":false,"filePHID":null,"encoding":"utf-8",
			"content":"diff --git a/README b/README\nindex {README.old}..{README} 100644\n--- a/README\n+++ b/README\n@@ -1,2 +1,2 @@\n hello\n-world\n+world!\n\\ No newline at end of file\n"}`, false},
		{"rawdiffquery", `{"commit":"{E}","path":"README","linesOfContext":0,"byteLimit":"10"}`, `{"tooHuge":true,"content":null}`, false},
		{"rawdiffquery", `{"commit":"topic","againstCommit":"{A}","path":"README"}`, `{"content":""}`, false},
		{"rawdiffquery", `{"commit":"topic","linesOfContext":101}`, `!ERR-INVALID-PARAMETER`, false},
		{"diffquery", `{"path":"README","commit":"main"}`, `{"effectiveCommit":"{E}","changes":[{"metadata":{},"oldPath":"README","currentPath":"README","awayPaths":[],
			"oldProperties":{"unix:filemode":"100644"},"newProperties":{"unix:filemode":"100644"},"type":2,"fileType":1,"commitHash":null,"hunks":[
			{"oldOffset":1,"newOffset":1,"oldLength":2,"newLength":2,"addLines":1,"delLines":1,"isMissingOldNewline":false,"isMissingNewNewline":true,
			"corpus":" hello\n-world\n+world!\n\\ No newline at end of file\n"}]}]}`, false},
		{"diffquery", `{"commit":"{B}","path":"gone"}`, `{"effectiveCommit":"{B}","changes":[{"currentPath":"gone","oldPath":"gone","type":3,"newProperties":{}}]}`, false},
		{"diffquery", `{"commit":"{A}","path":"gone"}`, `{"effectiveCommit":"{A}","changes":[{"currentPath":"gone","oldPath":null,"type":1,"oldProperties":{}}]}`, false},
		{"diffquery", `{"commit":"{E}"}`, `{"effectiveCommit":"{E}","changes":[{"currentPath":"README"},{"currentPath":"link","fileType":5},
			{"currentPath":"src/start.c","oldPath":"src/main.c","type":6},{"currentPath":"src/main.c","type":4,"awayPaths":["src/start.c"]}]}`, false},
		{"diffquery", `{"path":"nix"}`, `!ERR-UNKNOWN-PATH`, false},

		{"branchquery", `{"nix":1}`, `!ERR-CONDUIT-CALL`, false},
		{"nixquery", `{}`, `!ERR-CONDUIT-CALL`, false},
	} {
		params := w.expand(c.params)
		if params = strings.Replace(params, "{", `{"repository":"demo/hello",`, 1); strings.HasSuffix(params, ",}") {
			params = strings.TrimSuffix(params, ",}") + "}"
		}
		answer := w.everyWay("diffusion."+c.method, params)
		if want, ok := strings.CutPrefix(c.want, "!"); ok {
			if got := code(t, answer); got != want {
				t.Errorf("%s %s: %s, want the error %s", c.method, params, answer, want)
			}
			continue
		}
		var got struct {
			Result any
			Read   struct {
				Repository, Node string
				Version          int
				Stale, More      bool
			}
			Code *string `json:"error_code"`
			Info *string `json:"error_info"`
		}
		var want any
		if err := json.Unmarshal([]byte(w.expand(c.want)), &want); err != nil {
			t.Fatalf("%v in %s", err, c.want)
		}
		if err := json.Unmarshal([]byte(answer), &got); err != nil {
			t.Fatal(err)
		}
		if got.Code != nil {
			t.Errorf("%s %s: error %s: %s", c.method, params, *got.Code, *got.Info)
			continue
		}
		if why := differs(got.Result, want); why != "" {
			t.Errorf("%s %s: %s\n in %s", c.method, params, why, answer)
		}
		if r := got.Read; r.More != c.more || r.Repository != "demo/hello" || r.Node != "node1" || r.Version != 7 || r.Stale {
			t.Errorf("%s %s: read is %+v, want more %v of version 7", c.method, params, r, c.more)
		}
	}
}

// differs says where got is not want. A dictionary that is wanted may lack keys
// that are there; lists and values must be the same.
func differs(got, want any) string {
	switch want := want.(type) {
	case map[string]any:
		got, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%v is no dictionary", got)
		}
		for key, value := range want {
			there, ok := got[key]
			if !ok {
				return fmt.Sprintf("no key %q", key)
			}
			if why := differs(there, value); why != "" {
				return key + ": " + why
			}
		}
		if len(want) == 0 && len(got) > 0 {
			return fmt.Sprintf("%v, want an empty dictionary", got)
		}
		return ""
	case []any:
		got, ok := got.([]any)
		if !ok || len(got) != len(want) {
			return fmt.Sprintf("%v, want a list of %d", got, len(want))
		}
		for i := range want {
			if why := differs(got[i], want[i]); why != "" {
				return fmt.Sprintf("[%d]: %s", i, why)
			}
		}
		return ""
	}
	if !reflect.DeepEqual(got, want) {
		return fmt.Sprintf("%v, want %v", got, want)
	}
	return ""
}

func TestMissingNewlines(t *testing.T) {
	for _, c := range []struct {
		kind     byte
		old, new bool
	}{{'-', true, false}, {'+', false, true}, {' ', true, true}} {
		h := hunkOf(browse.Hunk{Lines: []browse.Line{{Kind: c.kind, Text: "x", NoEOL: true}}})
		if h.MissingOldNL != c.old || h.MissingNewNL != c.new || h.Corpus != string(c.kind)+"x\n\\ No newline at end of file\n" {
			t.Errorf("%q: %+v", c.kind, h)
		}
	}
}

// TestEmptyRepository has nothing to read yet, which is no error where there is a
// way to say so.
func TestEmptyRepository(t *testing.T) {
	w := newWorld(t)
	w.git("", "init", "-q", "--bare", "-b", "main", w.dirOf("empty"))
	w.host.add("empty", true, w.dirOf("empty"))
	for method, want := range map[string]string{
		"browsequery":  `{"isValidResults":false,"reasonForEmptyResultSet":"empty","paths":[]}`,
		"historyquery": `{"pathChanges":[],"parents":{}}`,
		"branchquery":  `[]`,
		"tagsquery":    `[]`,
	} {
		var wanted any
		json.Unmarshal([]byte(want), &wanted)
		if why := differs(result[any](t, w.everyWay("diffusion."+method, `{"repository":"empty"}`)), wanted); why != "" {
			t.Errorf("%s: %s", method, why)
		}
	}
	if got := code(t, w.everyWay("diffusion.querypaths", `{"repository":"empty"}`)); got != codeCommit {
		t.Errorf("paths of an empty repository: %q", got)
	}
}
