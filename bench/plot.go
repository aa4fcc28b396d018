package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// plot draws, for each line with a target, how far from it the run was: a bar from
// the target to what was measured, on a logarithmic scale, good to the left.
func plot(r *report) string {
	const (
		left, width, right = 330, 460, 190
		top, step, bar     = 56, 22, 13
		octaves            = 4 // to each side of the target
	)
	var lines []line
	for _, l := range r.Lines {
		if l.Limit > 0 {
			lines = append(lines, l)
		}
	}
	height := top + step*len(lines) + 46
	at := func(off float64) float64 { // octaves away from the target
		return left + width/2 + max(-octaves, min(octaves, off))*width/(2*octaves)
	}
	var b strings.Builder
	text := func(x, y float64, anchor, class, s string) {
		fmt.Fprintf(&b, "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"%s\" class=\"%s\">%s</text>\n", x, y, anchor, class, html.EscapeString(s))
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%[1]d" height="%[2]d" viewBox="0 0 %[1]d %[2]d">
<style>text{font:12px sans-serif;fill:#222}.title{font-size:15px}.quiet{fill:#777;font-size:11px}.good{fill:#2e7d4f}.bad{fill:#c2552d}</style>
<rect width="100%%" height="100%%" fill="#fff"/>
`, left+width+right, height)
	text(12, 22, "start", "title", "What was measured, as a multiple of its target")
	text(12, 40, "start", "quiet", fmt.Sprintf("%s run of %s on %s; left of the line the target is reached", r.Mode, r.Date.Format("2 January 2006"), r.Machine.CPU))
	bottom := float64(height - 30)
	for o := -octaves; o <= octaves; o++ {
		x := at(float64(o))
		stroke := "#ddd"
		if o == 0 {
			stroke = "#444"
		}
		fmt.Fprintf(&b, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%.0f\" stroke=\"%s\"/>\n", x, x, top-8, bottom, stroke)
		text(x, bottom+16, "middle", "quiet", "×"+number(math.Exp2(float64(o))))
	}
	for i, l := range lines {
		y := float64(top + step*i)
		off := math.Log2(max(l.Value, 1e-9) / l.Limit)
		if l.AtLeast {
			off = -off
		}
		class := "bad"
		if l.Reached {
			class = "good"
		}
		from, to := min(at(0), at(off)), max(at(0), at(off))
		fmt.Fprintf(&b, "<rect x=\"%.1f\" y=\"%.0f\" width=\"%.1f\" height=\"%d\" class=\"%s\"/>\n", from, y, max(1.5, to-from), bar, class)
		name := l.Row
		if l.Against != "" {
			name += " / " + l.Against
		}
		text(left-8, y+11, "end", "", name)
		relation, unit := "≤", ""
		if l.AtLeast {
			relation = "≥"
		}
		if l.Other == nil {
			unit = " " + l.Ours.Unit
		}
		text(left+width+10, y+11, "start", "", fmt.Sprintf("%s%s (%s %s)", number(l.Value), unit, relation, number(l.Limit)))
	}
	b.WriteString("</svg>\n")
	return b.String()
}
