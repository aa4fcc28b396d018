package web

import (
	"context"
	"fmt"
	"html/template"
	"path"
	"strings"
	"time"
	"unicode"

	"github.com/alecthomas/chroma/v2"
	"github.com/alecthomas/chroma/v2/lexers"
)

// mostHighlighted is the size of a file, in bytes, up to which it is coloured and
// shown with line numbers.
const mostHighlighted = 1 << 20

// mostLines is how many lines such a file may have. Each is a row of the page.
const mostLines = 50_000

// slots bounds work that cannot be interrupted once it has begun.
type slots chan struct{}

// bounded runs work for as long as it may take; false says that it took longer, or that
// nothing is free to run it. A library that panics on a stranger's text has simply failed.
func bounded[T any](ctx context.Context, s slots, limit time.Duration, work func(stop <-chan struct{}) T) (T, bool) {
	type outcome struct {
		value T
		ok    bool
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var none T
	select {
	case s <- struct{}{}:
	case <-ctx.Done():
		return none, false
	}
	done := make(chan outcome, 1)
	go func() {
		o := outcome{}
		defer func() {
			if recover() != nil {
				o.ok = false
			}
			<-s // only now: what goes on after its time still takes its place
			done <- o
		}()
		o.value = work(ctx.Done())
		o.ok = true
	}()
	select {
	case o := <-done:
		return o.value, o.ok
	case <-ctx.Done():
		return none, false
	}
}

// lines renders a text as the HTML of its lines, coloured if its language is known
// and time allows.
func (s *site) lines(ctx context.Context, name, text string) []template.HTML {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	if lexer := lexerFor(name, text); lexer != nil {
		coloured, ok := bounded(ctx, s.slow, s.colourTime, func(stop <-chan struct{}) []template.HTML { return colour(lexer, text, stop) })
		if ok && coloured != nil {
			return coloured
		}
	}
	var all []template.HTML
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		all = append(all, plainHTML(line))
	}
	return all
}

func lexerFor(name, text string) chroma.Lexer {
	if l := lexers.Match(path.Base(name)); l != nil {
		return l
	}
	if first, _, _ := strings.Cut(text[:min(len(text), 200)], "\n"); strings.HasPrefix(first, "#!") {
		words := strings.Fields(first[2:])
		if len(words) > 1 && path.Base(words[0]) == "env" {
			words = words[1:]
		}
		if len(words) > 0 {
			return lexers.Get(strings.TrimRight(path.Base(words[0]), "0123456789."))
		}
	}
	return nil
}

// stoppable is a lexer whose tokens end when it is stopped. It belongs below
// [chroma.Coalesce], which asks for more as long as tokens are of one kind: with a rule
// that goes back and forth in the text, that may be for hours.
type stoppable struct {
	chroma.Lexer
	stop <-chan struct{}
}

// Tokenise is called by chroma.Coalesce.
func (s stoppable) Tokenise(o *chroma.TokeniseOptions, text string) (chroma.Iterator, error) {
	tokens, err := s.Lexer.Tokenise(o, text)
	if err != nil {
		return nil, err
	}
	return func() chroma.Token {
		select {
		case <-s.stop:
			return chroma.EOF
		default:
			return tokens()
		}
	}, nil
}

// colour returns nil if it was stopped.
func colour(lexer chroma.Lexer, text string, stop <-chan struct{}) []template.HTML {
	tokens, err := chroma.Coalesce(stoppable{lexer, stop}).Tokenise(&chroma.TokeniseOptions{State: "root"}, text)
	if err != nil {
		return nil
	}
	var all []template.HTML
	var line strings.Builder
	for token := tokens(); token != chroma.EOF; token = tokens() {
		class := classOf(token.Type)
		for i, part := range strings.Split(token.Value, "\n") {
			if i > 0 {
				all = append(all, template.HTML(line.String()))
				line.Reset()
			}
			if part == "" {
				continue
			}
			if class == "" {
				writeVisible(&line, part)
				continue
			}
			line.WriteString(`<span class="` + class + `">`)
			writeVisible(&line, part)
			line.WriteString(`</span>`)
		}
	}
	select {
	case <-stop:
		return nil // some are missing
	default:
	}
	if line.Len() > 0 || len(all) == 0 {
		all = append(all, template.HTML(line.String()))
	}
	return all
}

// classOf sorts the many kinds of tokens into those that the style sheet has
// colours for.
func classOf(t chroma.TokenType) string {
	switch t {
	case chroma.CommentPreproc, chroma.CommentPreprocFile, chroma.NameDecorator:
		return "hp"
	case chroma.KeywordType, chroma.NameClass, chroma.NameNamespace, chroma.NameException:
		return "ht"
	case chroma.KeywordConstant, chroma.NameConstant:
		return "hn"
	case chroma.NameFunction, chroma.NameFunctionMagic:
		return "hf"
	case chroma.NameBuiltin, chroma.NameBuiltinPseudo, chroma.NameAttribute, chroma.NameProperty, chroma.NameLabel:
		return "hb"
	case chroma.NameTag, chroma.OperatorWord:
		return "hk"
	case chroma.GenericHeading, chroma.GenericSubheading, chroma.GenericStrong:
		return "hh"
	case chroma.GenericInserted:
		return "hi"
	case chroma.GenericDeleted:
		return "hd"
	}
	switch {
	case t.InCategory(chroma.Comment):
		return "hc"
	case t.InCategory(chroma.Keyword):
		return "hk"
	case t.InSubCategory(chroma.LiteralString):
		return "hs"
	case t.InSubCategory(chroma.LiteralNumber):
		return "hn"
	}
	return ""
}

func plainHTML(text string) template.HTML {
	var b strings.Builder
	writeVisible(&b, text)
	return template.HTML(b.String())
}

// writeVisible writes text as HTML. Characters that would hide or reorder what is
// there, so that a reader sees another program than a compiler, become marks. Those that
// follow each other share one, or a file of nothing else would make a page many times its size.
func writeVisible(b *strings.Builder, text string) {
	const open, end = `<span class="mark">`, `</span>`
	plain := 0 // text[:plain] is written
	marks := false
	for i, r := range text {
		size := len(string(r))
		if r == unicode.ReplacementChar && !strings.HasPrefix(text[i:], "\uFFFD") {
			size = 1 // a byte that is not UTF-8
		}
		if !deceptive(r) && size == len(string(r)) {
			continue
		}
		switch {
		case marks && plain == i:
			b.WriteByte(' ')
		case marks:
			b.WriteString(end)
			fallthrough
		default:
			b.WriteString(template.HTMLEscapeString(text[plain:i]))
			b.WriteString(open)
		}
		marks = true
		if size == 1 && r == unicode.ReplacementChar {
			fmt.Fprintf(b, "%02X", text[i])
		} else {
			fmt.Fprintf(b, "U+%04X", r)
		}
		plain = i + size
	}
	if marks {
		b.WriteString(end)
	}
	b.WriteString(template.HTMLEscapeString(text[plain:]))
}

// deceptive reports whether a character shows nothing of itself: a control
// character, a change of direction, or one of no width.
func deceptive(r rune) bool {
	switch {
	case r == '\t', r == '\n', r == '\u200c', r == '\u200d': // the joiners are part of words and emoji
		return false
	case unicode.IsControl(r):
		return true
	}
	return r == '\u00ad' || r == '\u061c' || r == '\u200b' || r == '\u200e' || r == '\u200f' || r == '\ufeff' ||
		'\u202a' <= r && r <= '\u202e' || '\u2060' <= r && r <= '\u206f'
}
