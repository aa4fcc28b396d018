package web

import (
	"embed"
	"fmt"
	"html/template"
	"path"
	"strconv"
	"strings"
	"time"

	"gitcluster/internal/admin"
	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
)

//go:embed templates
var templateFiles embed.FS

// loadTemplates parses each page together with what all share.
func loadTemplates(static func(string) string) map[string]*template.Template {
	shared := template.New("").Funcs(template.FuncMap{
		"static":  static,
		"ago":     ago,
		"day":     func(t time.Time) string { return t.Format("2 January 2006") },
		"short":   short,
		"shown":   plainHTML,
		"bytes":   sizeText,
		"comma":   comma,
		"count":   countText,
		"inc":     func(n int) int { return n + 1 },
		"less":    func(a, b int) int { return a - b },
		"branch":  func(r cluster.RefName) string { return strings.TrimPrefix(string(r), "refs/heads/") },
		"kind":    kindOf,
		"status":  statusText,
		"mode":    func(m browse.Mode) string { return fmt.Sprintf("%06o", uint32(m)) },
		"initial": initial,
		"last":    func(c browse.Commit, s spot) lastBar { return lastBar{c, s.Link.History(s.Rev, s.Path), s.Link} },
		"commits": func(c []browse.Commit, l links) commitList { return commitList{c, l} },
		"rows":    func(r []boardRow, n []admin.NodeStatus) boardTable { return boardTable{r, n} },
	})
	shared = template.Must(shared.ParseFS(templateFiles, "templates/page.html", "templates/parts.html"))
	all := map[string]*template.Template{}
	entries, err := templateFiles.ReadDir("templates")
	if err != nil {
		panic(err) // they are part of the program
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), path.Ext(e.Name()))
		if name == "page" || name == "parts" {
			continue
		}
		t := template.Must(shared.Clone())
		all[name] = template.Must(t.ParseFS(templateFiles, "templates/"+e.Name()))
	}
	return all
}

// What some templates are called with.
type (
	lastBar struct {
		Commit  browse.Commit
		History string
		Link    links
	}
	commitList struct {
		Commits []browse.Commit
		Link    links
	}
	boardTable struct {
		Rows  []boardRow
		Nodes []admin.NodeStatus
	}
)

// ago is a time for people: how long ago, with the moment itself for those who point
// at it.
func ago(t time.Time) template.HTML {
	if t.IsZero() {
		return ""
	}
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s">%s</time>`,
		t.UTC().Format(time.RFC3339), t.Format("2 January 2006, 15:04:05 -0700"), sinceText(time.Since(t))))
}

func sinceText(d time.Duration) string {
	const day = 24 * time.Hour
	for _, u := range []struct {
		size time.Duration
		name string
	}{{365 * day, "year"}, {30 * day, "month"}, {7 * day, "week"}, {day, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(d / u.size); n == 1 {
			return "1 " + u.name + " ago"
		} else if n > 1 {
			return strconv.Itoa(n) + " " + u.name + "s ago"
		}
	}
	if d < -time.Minute {
		return "in the future" // by its author's clock
	}
	return "just now"
}

func sizeText(n int64) string {
	switch {
	case n == 1:
		return "1 byte"
	case n < 1000:
		return fmt.Sprintf("%d bytes", n)
	case n < 1_000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1_000_000_000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}

// comma groups a number's digits.
func comma(n any) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}

func countText(n any, one, many string) string {
	if fmt.Sprint(n) == "1" {
		return "1 " + one
	}
	return comma(n) + " " + many
}

// kindOf names an entry for its icon and for those who cannot see that.
func kindOf(m browse.Mode) string {
	switch m {
	case browse.ModeDir:
		return "folder"
	case browse.ModeSymlink:
		return "symlink"
	case browse.ModeSubmodule:
		return "submodule"
	case browse.ModeExecutable:
		return "executable"
	}
	return "file"
}

func statusText(status byte) string {
	switch status {
	case browse.StatusAdded:
		return "added"
	case browse.StatusDeleted:
		return "deleted"
	case browse.StatusRenamed:
		return "renamed"
	case browse.StatusCopied:
		return "copied"
	case browse.StatusType:
		return "type changed"
	}
	return "modified"
}

// initial is the first letter of a name.
func initial(name string) string {
	for _, r := range strings.TrimSpace(name) {
		return strings.ToUpper(string(r))
	}
	return "?"
}
