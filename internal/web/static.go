package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

//go:embed static
var staticFiles embed.FS

// static is the files that are the same for everybody, under an address that
// changes with them, so that browsers may keep them for good.
type static struct {
	hash  string
	files map[string][]byte
}

var staticTypes = map[string]string{
	"style.css": "text/css; charset=utf-8",
	"page.js":   "text/javascript; charset=utf-8",
	"icon.svg":  "image/svg+xml",
}

func loadStatic() static {
	s := static{files: map[string][]byte{}}
	sum := sha256.New()
	entries, err := staticFiles.ReadDir("static")
	if err != nil {
		panic(err) // they are part of the program
	}
	for _, e := range entries {
		data, err := staticFiles.ReadFile("static/" + e.Name())
		if err != nil {
			panic(err)
		}
		s.files[e.Name()] = data
		sum.Write(data)
	}
	s.hash = hex.EncodeToString(sum.Sum(nil)[:8])
	return s
}

func (s static) url(name string) string { return staticPrefix + s.hash + "/" + name }

func (s static) serve(w http.ResponseWriter, r *http.Request, file string) {
	hash, name, _ := strings.Cut(file, "/")
	data, ok := s.files[name]
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", staticTypes[name])
	h.Del("Vary")
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	if hash != s.hash {
		// A page of another version of this program asks, through a balancer, say.
		h.Set("Cache-Control", "no-store")
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}
