package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A report is everything that a run has found.
type report struct {
	Mode    string    `json:"mode"`
	Date    time.Time `json:"date"`
	Took    string    `json:"took"`
	Machine machine   `json:"machine"`
	Lines   []line    `json:"lines"`
	Skipped []note    `json:"skipped,omitempty"`
	Broken  []note    `json:"broken,omitempty"`

	mu     sync.Mutex
	before map[string]line // of an earlier run, by what was compared
}

// compareWith has the table show what an earlier run has found.
func (r *report) compareWith(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var earlier report
	if err := json.Unmarshal(text, &earlier); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	r.before = map[string]line{}
	for _, l := range earlier.Lines {
		r.before[l.Row+" "+l.Against] = l
	}
	return nil
}

// A line is one comparison, or one number on its own.
type line struct {
	Row     string  `json:"row"`
	Ours    sample  `json:"ours"`
	Against string  `json:"against,omitempty"`
	Other   *sample `json:"other,omitempty"`
	Value   float64 `json:"value"`           // the ratio, or our own number
	Limit   float64 `json:"limit,omitempty"` // at most; 0 where nothing is to be reached
	AtLeast bool    `json:"at_least,omitempty"`
	Reached bool    `json:"reached,omitempty"`
	Note    string  `json:"note,omitempty"`
}

type note struct {
	Row string `json:"row"`
	Why string `json:"why"`
}

// ratio adds a comparison of ours with something else. Nothing is to be reached if
// limit is 0.
func (r *report) ratio(row string, ours sample, against string, other sample, limit float64) {
	l := line{Row: row, Ours: ours, Against: against, Other: &other, Limit: limit}
	if other.Median > 0 {
		l.Value = ours.Median / other.Median
	}
	l.Reached = limit > 0 && l.Value <= limit
	r.add(l)
}

// faster is ratio for numbers of which more is better.
func (r *report) faster(row string, ours sample, against string, other sample, limit float64) {
	l := line{Row: row, Ours: ours, Against: against, Other: &other, Limit: limit, AtLeast: true}
	if other.Median > 0 {
		l.Value = ours.Median / other.Median
	}
	l.Reached = limit > 0 && l.Value >= limit
	r.add(l)
}

// number adds a number of ours that is to be at most limit, if that is not 0.
func (r *report) number(row string, ours sample, limit float64, note string) {
	r.add(line{Row: row, Ours: ours, Value: ours.Median, Limit: limit, Reached: limit > 0 && ours.Median <= limit, Note: note})
}

func (r *report) add(l line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Lines = append(r.Lines, l)
	fmt.Fprintln(os.Stderr, "  "+strings.Trim(l.cells(), "|"))
}

func (r *report) skip(row, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Skipped = append(r.Skipped, note{row, why})
	fmt.Fprintf(os.Stderr, "  skipped: %s: %s\n", row, why)
}

func (r *report) broken(row string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Broken = append(r.Broken, note{row, err.Error()})
	fmt.Fprintf(os.Stderr, "  BROKEN: %s: %v\n", row, err)
}

// cells is the line as a row of a Markdown table.
func (l line) cells() string {
	other, value, target, verdict := l.Note, "", "report", ""
	if l.Other != nil {
		other = fmt.Sprintf("%s %v", l.Against, *l.Other)
		value = number(l.Value)
	}
	if l.Limit > 0 {
		target = "≤ " + number(l.Limit)
		if l.AtLeast {
			target = "≥ " + number(l.Limit)
		}
		if l.Other == nil {
			target += " " + l.Ours.Unit
		}
		verdict = "no"
		if l.Reached {
			verdict = "reached"
		}
	}
	return fmt.Sprintf("| %s | %v | %s | %s | %s | %s |", l.Row, l.Ours, other, value, target, verdict)
}

// found is what a line has found, in short.
func (l line) found() string {
	switch {
	case l.Row == "":
		return ""
	case l.Other == nil:
		return l.Ours.String()
	}
	return fmt.Sprintf("%s (%s)", number(l.Value), strings.TrimSpace(number(l.Ours.Median)+" "+l.Ours.Unit))
}

// table writes the report as Markdown.
func (r *report) table(w io.Writer) {
	fmt.Fprintf(w, "%s run of %s, in %s\n%s\n\n", r.Mode, r.Date.Format(time.RFC3339), r.Took, r.Machine)
	head, rule := "| row | cluster | beside | ratio | target | |", "| --- | --- | --- | --- | --- | --- |"
	if r.before != nil {
		head, rule = head+" before |", rule+" --- |"
	}
	fmt.Fprintf(w, "%s\n%s\n", head, rule)
	last := ""
	for _, l := range r.Lines {
		shown := l
		if l.Row == last {
			shown.Row = ""
		}
		last = l.Row
		cells := shown.cells()
		if r.before != nil {
			cells += " " + r.before[l.Row+" "+l.Against].found() + " |"
		}
		fmt.Fprintln(w, cells)
	}
	for _, n := range r.Skipped {
		fmt.Fprintf(w, "\nSkipped: %s: %s\n", n.Row, n.Why)
	}
	for _, n := range r.Broken {
		fmt.Fprintf(w, "\nBroken: %s: %s\n", n.Row, n.Why)
	}
}

// write leaves the report in dir, as JSON, as a table and as a plot, and returns the
// path of the first.
func (r *report) write(dir string) (string, error) {
	base := filepath.Join(dir, r.Date.Format("2006-01-02T150405")+"-"+r.Mode)
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", err
	}
	var table strings.Builder
	r.table(&table)
	return base + ".json", cmp.Or(
		os.WriteFile(base+".json", append(text, '\n'), 0o644),
		os.WriteFile(base+".md", []byte(table.String()), 0o644),
		os.WriteFile(base+".svg", []byte(plot(r)), 0o644))
}
