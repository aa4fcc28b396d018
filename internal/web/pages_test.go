package web

import (
	"strings"
	"testing"
)

func TestPagesOfARepository(t *testing.T) {
	w := newWorld(t)
	m := w.add("demo/hello", true)
	first := w.commit(m, "refs/heads/main", "Ada", "Begin\n\nWith a body.",
		change{"README.md", "", "# Hello\n\nSee [the code](src/main.go) and ![a picture](img/p.png).\n\n```go\nfunc main() {}\n```\n"},
		change{"src/main.go", "", "package main\n\nfunc main() {\n\tprintln(\"one\")\n}\n"},
		change{"run.sh", "100755", "#!/bin/sh\necho hello\n"},
		change{"link", "120000", "src/main.go"})
	second := w.commit(m, "refs/heads/main", "Grace", "Say two", change{"src/main.go", "", "package main\n\nfunc main() {\n\tprintln(\"two\")\n}\n"})
	w.commit(m, "refs/heads/topic/deep", "Grace", "On a branch", change{"new.txt", "", "new\n"})
	w.git(m, "", "tag", "v1", first)

	home := w.page("/demo/hello", "")
	has(t, home, "demo/hello", "public", "Say two", "src", "README.md", "run.sh", "Hello", "func main() {}", "current when this page was made")
	tree := w.page("/demo/hello/-/tree/topic/deep", "")
	has(t, tree, "topic/deep", "new.txt", "On a branch")
	has(t, w.page("/demo/hello/-/tree/main/src", ""), "main.go", "Say two")
	file := w.page("/demo/hello/-/file/main/src/main.go", "")
	has(t, file, `println("two")`, "5 lines", "Say two")
	if l4 := byID(file, "L4"); l4 == nil || !strings.Contains(textOf(l4), "println") {
		t.Error("line 4 has no id to link to")
	}
	has(t, w.page("/demo/hello/-/file/v1/src/main.go", ""), `println("one")`)
	has(t, w.page("/demo/hello/-/blame/main/src/main.go", ""), "Begin", "Say two", `println("two")`)
	has(t, w.page("/demo/hello/-/history/main", ""), "Begin", "Say two", "Ada", "Grace")
	if text := textOf(w.page("/demo/hello/-/history/main/run.sh", "")); strings.Contains(text, "Say two") {
		t.Error("the history of a file has a commit that did not change it")
	}
	commit := w.page("/demo/hello/-/commit/"+second, "")
	has(t, commit, "Say two", "1 file changed", "src/main.go", `println("one")`, `println("two")`, "Grace")
	has(t, w.page("/demo/hello/-/commit/"+first[:12], ""), "With a body.", "4 files changed")
	has(t, w.page("/demo/hello/-/compare/v1...main", ""), "main has 1 commit that v1 lacks.", "Say two")
	has(t, w.page("/demo/hello/-/branches", ""), "main", "default", "topic/deep")
	has(t, w.page("/demo/hello/-/tags", ""), "v1")
	has(t, w.page("/demo/hello/-/search?q=println", ""), "src/main.go", `println("two")`, "1 line")
	has(t, w.page("/demo/hello/-/search?q=MAIN.go", ""), "Names", "src/main.go")
	has(t, w.page("/demo/hello/-/log", ""), "alice", "refs/heads/main", "node2")
	has(t, w.page("/", ""), "demo/hello", "alice")
	if raw := w.get("/demo/hello/-/raw/main/run.sh", ""); raw.body != "#!/bin/sh\necho hello\n" || raw.header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("raw: %q as %q", raw.body, raw.header.Get("Content-Type"))
	}
}
