package web

import (
	"bytes"
	"context"
	"html/template"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/alecthomas/chroma/v2/lexers"
	"github.com/microcosm-cc/bluemonday"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/renderer"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"

	"gitcluster/internal/browse"
)

// mostReadme bounds a document that is rendered with a directory.
const mostReadme = 512 << 10

// mostMarkdown bounds Markdown that is rendered. The time that takes can grow with the
// square of its size, and nothing can end it: ten seconds for this much of ">>>>…", minutes
// for four times as much.
const mostMarkdown = 128 << 10

// A document is a text for people, shown as what it means.
type document struct {
	Name    string
	Address string        // of the file
	HTML    template.HTML // "" if it is shown as Text
	Text    template.HTML
	Cut     bool
}

// document renders Markdown; other texts, and Markdown that takes too long, stay as
// they are.
func (v *visit) document(ctx context.Context, at string, file browse.File) *document {
	d := &document{Name: path.Base(at), Address: v.link.File(v.rev, at)}
	if file.Binary {
		return nil
	}
	data := file.Data
	if len(data) > mostReadme {
		data, d.Cut = data[:mostReadme], true
	}
	if file.Size <= mostMarkdown && isMarkdown(at) {
		source := strings.ToValidUTF8(string(data), "\uFFFD")
		base := path.Dir(at)
		if base == "." {
			base = ""
		}
		html, ok := bounded(ctx, v.slow, v.markdownTime, func(stop <-chan struct{}) template.HTML {
			return v.markdown(source, base, stop)
		})
		if ok && html != "" {
			d.HTML = html
			return d
		}
	}
	d.Text = plainHTML(string(data))
	return d
}

func isMarkdown(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".md", ".markdown", ".mdown":
		return true
	}
	return false
}

// markdown renders a document that lies in the directory base. Raw HTML in it is
// dropped; the rest passes a list of what may be there, so that no mistake of the renderer is
// a hole.
func (v *visit) markdown(source, base string, stop <-chan struct{}) template.HTML {
	place := &placement{v: v, base: base}
	m := goldmark.New(
		goldmark.WithExtensions(extension.GFM, extension.Footnote),
		goldmark.WithParserOptions(parser.WithAutoHeadingID(), parser.WithASTTransformers(util.Prioritized(place, 500))),
		goldmark.WithRendererOptions(renderer.WithNodeRenderers(util.Prioritized(&codeBlocks{stop}, 100))),
	)
	var out bytes.Buffer
	if err := m.Convert([]byte(source), &out, parser.WithContext(parser.NewContext(parser.WithIDs(headingIDs{})))); err != nil {
		return ""
	}
	return template.HTML(sanitizer().SanitizeReader(&out).String())
}

// sanitizer allows what Markdown can say.
var sanitizer = sync.OnceValue(func() *bluemonday.Policy {
	p := bluemonday.NewPolicy()
	p.AllowElements("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "code", "em", "strong", "del",
		"ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "sup", "span", "section", "div")
	p.AllowAttrs("href").OnElements("a")
	p.AllowAttrs("src", "alt").OnElements("img")
	p.AllowAttrs("title").OnElements("a", "img")
	p.AllowAttrs("start").Matching(bluemonday.Integer).OnElements("ol")
	p.AllowAttrs("align").Matching(regexp.MustCompile(`^(left|right|center)$`)).OnElements("th", "td")
	p.AllowAttrs("class").Matching(regexp.MustCompile(`^(h[a-z]|mark|block)$`)).OnElements("span", "pre")
	p.AllowAttrs("id").Matching(regexp.MustCompile(`^(doc-|fn:|fnref)[\pL\pN:_-]*$`)).Globally()
	p.AllowAttrs("type").Matching(regexp.MustCompile(`^checkbox$`)).OnElements("input")
	p.AllowAttrs("checked", "disabled").Matching(regexp.MustCompile(`^$`)).OnElements("input")
	p.AllowRelativeURLs(true)
	p.AllowURLSchemes("http", "https", "mailto")
	p.RequireNoFollowOnFullyQualifiedLinks(true)
	p.RequireNoReferrerOnFullyQualifiedLinks(true)
	return p
})

// headingIDs names headings so that no document can take the place of an
// element of the page.
type headingIDs map[string]int

func (h headingIDs) Generate(value []byte, _ ast.NodeKind) []byte {
	var b strings.Builder
	b.WriteString("doc-")
	for _, r := range strings.ToLower(strings.TrimSpace(string(value))) {
		switch {
		case r == ' ', r == '-':
			b.WriteByte('-')
		case r == '_', '0' <= r && r <= '9', 'a' <= r && r <= 'z', r > 0x7f && (unicode.IsLetter(r) || unicode.IsNumber(r)):
			b.WriteRune(r)
		}
	}
	id := b.String()
	n := h[id]
	h[id]++
	if n > 0 {
		id += "-" + strconv.Itoa(n)
	}
	return []byte(id)
}

func (h headingIDs) Put([]byte) {}

// placement leads a document's links and images to pages of its repository.
type placement struct {
	v    *visit
	base string // the document's directory
}

// Transform is called by goldmark with a parsed document.
func (p *placement) Transform(doc *ast.Document, r text.Reader, _ parser.Context) {
	var images []*ast.Image
	ast.Walk(doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if entering {
			switch n := n.(type) {
			case *ast.Link:
				n.Destination = []byte(p.lead(string(n.Destination), p.v.link.File))
			case *ast.Image:
				images = append(images, n)
			}
		}
		return ast.WalkContinue, nil
	})
	for _, image := range images {
		to := string(image.Destination)
		if u, err := url.Parse(to); err == nil && u.Scheme == "" && u.Host == "" {
			image.Destination = []byte(p.lead(to, p.v.link.Raw))
			continue
		}
		// An image of another host would tell that host who reads this. It becomes
		// a link, which tells only if somebody follows it.
		link := ast.NewLink()
		link.Destination, link.Title = image.Destination, image.Title
		for child := image.FirstChild(); child != nil; {
			next := child.NextSibling()
			link.AppendChild(link, child)
			child = next
		}
		if link.ChildCount() == 0 {
			link.AppendChild(link, ast.NewString([]byte("image")))
		}
		image.Parent().ReplaceChild(image.Parent(), image, link)
	}
}

// lead turns a relative destination into an address of the repository.
func (p *placement) lead(to string, page func(rev, path string) string) string {
	u, err := url.Parse(to)
	if err != nil {
		return "#"
	}
	if u.Scheme != "" {
		return to // other schemes than the web's are dropped when the HTML is checked
	}
	if u.Host != "" {
		return "https:" + to
	}
	if u.Path == "" {
		if u.Fragment != "" {
			return "#doc-" + u.Fragment
		}
		return "#"
	}
	at := path.Join("/", p.base, u.Path)
	if strings.HasPrefix(u.Path, "/") {
		at = path.Clean(u.Path)
	}
	address := page(p.v.rev, strings.TrimPrefix(at, "/"))
	if u.Fragment != "" {
		address += "#" + (&url.URL{Fragment: u.Fragment}).EscapedFragment()
	}
	return address
}

// codeBlocks colours the code in a document, until it is stopped.
type codeBlocks struct{ stop <-chan struct{} }

// RegisterFuncs is called by goldmark.
func (c *codeBlocks) RegisterFuncs(r renderer.NodeRendererFuncRegisterer) {
	r.Register(ast.KindFencedCodeBlock, c.render)
	r.Register(ast.KindCodeBlock, c.render)
}

func (c *codeBlocks) render(w util.BufWriter, source []byte, n ast.Node, entering bool) (ast.WalkStatus, error) {
	if !entering {
		return ast.WalkContinue, nil
	}
	var code strings.Builder
	for i := range n.Lines().Len() {
		line := n.Lines().At(i)
		code.Write(line.Value(source))
	}
	var lines []template.HTML
	if fenced, ok := n.(*ast.FencedCodeBlock); ok {
		if lexer := lexers.Get(string(fenced.Language(source))); lexer != nil {
			lines = colour(lexer, code.String(), c.stop)
		}
	}
	if lines == nil {
		lines = []template.HTML{plainHTML(strings.TrimSuffix(code.String(), "\n"))}
	}
	w.WriteString(`<pre class="block"><code>`)
	for _, line := range lines {
		w.WriteString(string(line))
		w.WriteByte('\n')
	}
	w.WriteString("</code></pre>\n")
	return ast.WalkSkipChildren, nil
}
