package repository

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

// A history is objects that were made up, more kinds of them than people make.
type history struct {
	rng     *rand.Rand
	width   int
	objects map[objectID]made
	ids     []objectID // in the order in which they were made
	tips    []objectID // commits and tags
	states  map[objectID]*file
	wrong   bool // whether some links are to an object of another kind
}

type made struct {
	object
	links []link
}

// A file is one, or a folder if sub is not nil.
type file struct {
	mode string
	text string
	sub  map[string]*file
}

func (f *file) clone() *file {
	c := *f
	if f.sub != nil {
		c.sub = map[string]*file{}
		for name, below := range f.sub {
			c.sub[name] = below.clone()
		}
	}
	return &c
}

func newHistory(seed uint64, format cluster.ObjectFormat, commits int) *history {
	h := &history{rng: rand.New(rand.NewPCG(seed, 1)), width: 20, objects: map[objectID]made{}, states: map[objectID]*file{}}
	if format == cluster.SHA256 {
		h.width = 32
	}
	h.wrong = h.rng.IntN(6) == 0
	var last []objectID
	for range commits {
		id := h.commit(last)
		last = append(last, id)
		h.tips = append(h.tips, id)
		for h.rng.IntN(8) == 0 { // a tag, perhaps of a tag, a tree or a blob
			of := h.tips[len(h.tips)-1]
			if h.rng.IntN(5) == 0 {
				of = h.any()
			}
			h.tips = append(h.tips, h.tag(of))
		}
	}
	return h
}

func (h *history) any() objectID { return h.ids[h.rng.IntN(len(h.ids))] }

func (h *history) add(k kind, data []byte, links ...link) objectID {
	whole := append(fmt.Appendf(nil, "%v %d\x00", k, len(data)), data...)
	var id objectID
	if h.width == 20 {
		sum := sha1.Sum(whole)
		id = objectID(sum[:])
	} else {
		sum := sha256.Sum256(whole)
		id = objectID(sum[:])
	}
	if _, ok := h.objects[id]; !ok {
		h.objects[id] = made{object{k, data}, links}
		h.ids = append(h.ids, id)
	}
	return id
}

func (h *history) tag(of objectID) objectID {
	k := h.objects[of].kind
	if h.wrong && h.rng.IntN(4) == 0 {
		k = blobKind
	}
	return h.add(tagKind, fmt.Appendf(nil, "object %x\ntype %v\ntag t%d\ntagger a <a@x> 1 +0000\n\nx\n", string(of), k, h.rng.Uint32()), link{of, k})
}

// commit makes one on top of none, one or more of the earlier ones.
func (h *history) commit(earlier []objectID) objectID {
	var parents []objectID
	root := &file{sub: map[string]*file{}}
	if len(earlier) > 0 && h.rng.IntN(12) > 0 {
		n := 1
		if h.rng.IntN(4) == 0 {
			n = 2 + h.rng.IntN(3)
		}
		for range n {
			back := min(len(earlier), 1+h.rng.IntN(3))
			parents = append(parents, earlier[len(earlier)-back])
		}
		root = h.states[parents[0]].clone()
	}
	if len(earlier) > 0 && h.rng.IntN(10) == 0 { // as it once was
		root = h.states[earlier[h.rng.IntN(len(earlier))]].clone()
	}
	for range h.rng.IntN(4) {
		h.change(root, earlier)
	}
	if len(parents) == 0 {
		for range 30 {
			h.change(root, earlier)
		}
	}
	tree := h.tree(root)
	links := []link{{tree, treeKind}}
	text := fmt.Appendf(nil, "tree %x\n", string(tree))
	for _, p := range parents {
		if h.wrong && h.rng.IntN(20) == 0 {
			p = h.any()
		}
		text = fmt.Appendf(text, "parent %x\n", string(p))
		links = append(links, link{p, commitKind})
	}
	when := 1_000_000 + len(h.ids)
	if h.rng.IntN(10) == 0 {
		when = h.rng.IntN(2_000_000) // a clock that is wrong
	}
	text = fmt.Appendf(text, "author a <a@x> %d +0000\ncommitter a <a@x> %[1]d +0000\n\n%d\n", when, h.rng.Uint32())
	id := h.add(commitKind, text, links...)
	h.states[id] = root
	return id
}

// change does to a folder what people do, and other things.
func (h *history) change(in *file, earlier []objectID) {
	for range h.rng.IntN(4) { // go down
		for _, name := range slices.Sorted(maps.Keys(in.sub)) {
			if below := in.sub[name]; below.sub != nil && h.rng.IntN(2) == 0 {
				in = below
				break
			}
		}
	}
	names := slices.Sorted(maps.Keys(in.sub))
	name := fmt.Sprintf("f%d", h.rng.IntN(20))
	if len(names) > 0 && h.rng.IntN(2) == 0 {
		name = names[h.rng.IntN(len(names))]
	}
	switch f := in.sub[name]; h.rng.IntN(11) {
	case 0:
		delete(in.sub, name)
	case 1, 2: // a folder, also in place of a file
		below := &file{mode: "40000", sub: map[string]*file{}}
		in.sub[name] = below
		for range h.rng.IntN(7) { // it may be empty
			h.change(below, earlier)
		}
	case 3: // elsewhere
		if f != nil {
			delete(in.sub, name)
			in.sub[fmt.Sprintf("moved%d", h.rng.IntN(9))] = f
		}
	case 4:
		in.sub[name] = &file{mode: "120000", text: fmt.Sprintf("f%d", h.rng.IntN(9))}
	case 5:
		in.sub[name] = &file{mode: "160000", text: string(h.bytes(h.width))}
	case 6:
		if f != nil && f.sub == nil && f.mode != "160000" {
			f.mode = []string{"100755", "100644", "100664"}[h.rng.IntN(3)]
		}
	case 7: // something that was there at another time
		if len(earlier) > 0 {
			if old := h.states[earlier[h.rng.IntN(len(earlier))]].sub[name]; old != nil {
				in.sub[name] = old.clone()
			}
		}
	default: // a text, and a longer one changes at its end
		text := strings.Repeat(fmt.Sprintf("the text of %s\n", name), 1+h.rng.IntN(12)) + fmt.Sprint(h.rng.IntN(50))
		in.sub[name] = &file{mode: "100644", text: text}
	}
}

func (h *history) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(h.rng.Uint32())
	}
	return b
}

func (h *history) tree(f *file) objectID {
	names := slices.SortedFunc(maps.Keys(f.sub), func(a, b string) int {
		slash := func(name string) string {
			if f.sub[name].sub != nil {
				return name + "/"
			}
			return name
		}
		return strings.Compare(slash(a), slash(b))
	})
	var data []byte
	var links []link
	for _, name := range names {
		below := f.sub[name]
		mode := below.mode
		var id objectID
		switch {
		case below.sub != nil:
			id = h.tree(below)
			links = append(links, link{id, treeKind})
		case mode == "160000":
			id = objectID(below.text)
		default:
			id = h.add(blobKind, []byte(below.text))
			links = append(links, link{id, blobKind})
		}
		if h.wrong && mode != "160000" && h.rng.IntN(60) == 0 {
			id = h.any()
			links[len(links)-1].id = id
		}
		data = fmt.Appendf(data, "%s %s\x00%s", mode, name, string(id))
	}
	return h.add(treeKind, data, links...)
}

// reach adds to all what is reached from ids and is not in all yet. It reports whether
// each object is here, and is of the kind that it is named as.
func (h *history) reach(all map[objectID]bool, here func(objectID) bool, ids ...objectID) bool {
	whole := true
	var todo []link
	for _, id := range ids {
		todo = append(todo, link{id, h.objects[id].kind})
	}
	for len(todo) > 0 {
		l := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		o, ok := h.objects[l.id]
		if !ok || !here(l.id) || o.kind != l.kind {
			whole = false
			continue
		}
		if !all[l.id] {
			all[l.id] = true
			todo = append(todo, o.links...)
		}
	}
	return whole
}

// writeLoose writes objects as files of their own.
func (h *history) writeLoose(t testing.TB, dir string, ids []objectID) {
	t.Helper()
	for _, id := range ids {
		o := h.objects[id]
		var b bytes.Buffer
		z := zlib.NewWriter(&b)
		fmt.Fprintf(z, "%v %d\x00%s", o.kind, len(o.data), o.data)
		z.Close()
		name := hex.EncodeToString([]byte(id))
		path := filepath.Join(dir, name[:2], name[2:])
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func hexIDs(ids []objectID) (all []cluster.OID) {
	for _, id := range ids {
		all = append(all, cluster.OID(hex.EncodeToString([]byte(id))))
	}
	return all
}
