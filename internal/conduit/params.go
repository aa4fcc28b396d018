package conduit

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Params are the parameters of a call: strings, json.Numbers, booleans, nil, and
// lists and maps of them. A form has no lists: there they are maps with the keys
// "0", "1", ….
type Params map[string]any

// What a caller may send.
const (
	maxBody   = 1 << 20 // bytes of a body, and of standard input over SSH
	maxPairs  = 2000    // pairs of a form
	maxDepth  = 6       // parts of a form's key
	maxText   = 4096    // bytes of a parameter
	maxOffset = 100_000 // results skipped
	maxLimit  = 1000    // results of one call
)

// fromForm reads parameters as PHP would: "names[0]=a", "names[]=a" and
// "constraints[shortNames][0]=a" are lists and maps. If there is a parameter
// "params" it is JSON and holds all others, as Phabricator's own clients send it.
func fromForm(form url.Values) (params Params, token string, err error) {
	pairs := 0
	all := map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(form)) {
		if key == "" {
			continue // "?=x" or "&&": PHP passes it over, too
		}
		path, err := splitKey(key)
		if err != nil {
			return nil, "", err
		}
		for _, value := range form[key] {
			if pairs++; pairs > maxPairs {
				return nil, "", faultf(codeParameter, "there are more than %d parameters", maxPairs)
			}
			if err := insert(all, path, value); err != nil {
				return nil, "", err
			}
		}
	}
	return withoutMeta(all)
}

// splitKey splits the key of a form's pair: "a[b][]" into "a", "b" and "".
func splitKey(key string) ([]string, error) {
	base, _, _ := strings.Cut(key, "[")
	path := []string{base}
	for rest := key[len(base):]; rest != ""; {
		part, after, ok := strings.Cut(rest[1:], "]")
		if rest[0] != '[' || !ok || base == "" {
			return nil, faultf(codeParameter, "the parameter %q is not of the form name[key][key]", clip(key))
		}
		if path = append(path, part); len(path) > maxDepth {
			return nil, faultf(codeParameter, "the parameter %q has more than %d parts", clip(key), maxDepth)
		}
		rest = after
	}
	return path, nil
}

// insert puts a value where path leads. An empty part is the next number.
func insert(into map[string]any, path []string, value string) error {
	key := path[0]
	for n := len(into); key == ""; n++ {
		if _, taken := into[strconv.Itoa(n)]; !taken {
			key = strconv.Itoa(n)
		}
	}
	if len(path) == 1 {
		if _, isMap := into[key].(map[string]any); isMap {
			return faultf(codeParameter, "the parameter %q is both a value and a list", clip(key))
		}
		into[key] = value
		return nil
	}
	below, ok := into[key].(map[string]any)
	if !ok {
		if _, taken := into[key]; taken {
			return faultf(codeParameter, "the parameter %q is both a value and a list", clip(key))
		}
		below = map[string]any{}
		into[key] = below
	}
	return insert(below, path[1:], value)
}

// fromJSON reads parameters from an object, or from what is in its member "params":
// an object, or the text of one. Nothing at all stands for no parameters.
func fromJSON(text []byte) (params Params, token string, err error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return Params{}, "", nil
	}
	all, err := decodeObject(text)
	if err != nil {
		return nil, "", err
	}
	return withoutMeta(all)
}

func decodeObject(text []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return nil, faultf(codeCore, "the parameters are not JSON: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, faultf(codeCore, "something follows the parameters' JSON")
	}
	all, ok := asMap(value)
	if !ok {
		return nil, faultf(codeCore, "the parameters are not a JSON object")
	}
	return all, nil
}

// withoutMeta takes the token and what else is about the call itself out of the
// parameters.
func withoutMeta(all map[string]any) (params Params, token string, err error) {
	tokens := []any{all["api.token"]}
	if inner := all["params"]; inner == nil || inner == "" {
		delete(all, "params")
	} else {
		object, ok := asMap(inner)
		if text, isText := inner.(string); isText {
			if object, err = decodeObject([]byte(text)); err != nil {
				return nil, "", err
			}
		} else if !ok {
			return nil, "", faultf(codeCore, "the parameter \"params\" is not a JSON object")
		}
		all = object
		tokens = append(tokens, all["api.token"])
	}
	if meta, ok := asMap(all["__conduit__"]); ok {
		if _, signed := meta["auth.type"]; signed {
			return nil, "", faultf(codeAuth, "signed requests are not understood: send a token; a device has one of its own")
		}
		tokens = append(tokens, meta["token"])
	}
	params = Params{}
	for name, value := range all {
		switch name {
		case "api.token", "output", "__conduit__", "__form__", "__csrf__":
		default:
			params[name] = value
		}
	}
	for _, t := range tokens {
		text, ok := t.(string)
		switch {
		case t == nil:
		case !ok, token != "" && text != token:
			return nil, "", faultf(codeAuth, "there is more than one token, or one that is no text")
		default:
			token = text
		}
	}
	return params, token, nil
}

// asMap takes an empty list for an empty map: PHP has only one kind of array.
func asMap(value any) (map[string]any, bool) {
	switch v := value.(type) {
	case map[string]any:
		return v, true
	case []any:
		return map[string]any{}, len(v) == 0
	}
	return nil, false
}

// arguments reads parameters by their types. The first that is wrong is kept in
// err, so that a method can read all of them and check once.
type arguments struct {
	values Params
	err    error
}

func (a *arguments) wrong(name, format string, more ...any) {
	if a.err == nil {
		a.err = faultf(codeParameter, "parameter %q: "+format, append([]any{name}, more...)...)
	}
}

// text reads a text; one that is missing or null is "".
func (a *arguments) text(name string) string {
	if a.values[name] == nil {
		return ""
	}
	s, ok := a.plain(a.values[name])
	if !ok {
		a.wrong(name, "want text of at most %d bytes, without NUL", maxText)
	}
	return s
}

func (a *arguments) plain(value any) (string, bool) {
	var s string
	switch v := value.(type) {
	case string:
		s = v
	case json.Number:
		s = v.String()
	default:
		return "", false
	}
	if len(s) > maxText || strings.Contains(s, "\x00") {
		return "", false
	}
	return s, true
}

// required reads a text that must be there.
func (a *arguments) required(name string) string {
	s := a.text(name)
	if s == "" {
		a.wrong(name, "it is missing")
	}
	return s
}

// path reads a path in a repository; Phabricator's clients may put slashes around it.
func (a *arguments) path(name string) string {
	return strings.Trim(a.text(name), "/")
}

// number reads a number between 0 and most; one that is missing or null is otherwise.
func (a *arguments) number(name string, otherwise, most int) int {
	if a.values[name] == nil {
		return otherwise
	}
	text, ok := a.plain(a.values[name])
	if ok && text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if !ok || err != nil || n < 0 || n > most {
		a.wrong(name, "want a number from 0 to %d", most)
		return otherwise
	}
	return n
}

// limit and offset read which part of a list is asked for. A limit of 0 is as
// good as none.
func (a *arguments) limit(otherwise int) int {
	if n := a.number("limit", otherwise, maxLimit); n > 0 {
		return n
	}
	return otherwise
}

func (a *arguments) offset() int { return a.number("offset", 0, maxOffset) }

// truth reads a boolean; one that is missing or null is false.
func (a *arguments) truth(name string) bool {
	switch v := a.values[name].(type) {
	case nil:
		return false
	case bool:
		return v
	default:
		text, _ := a.plain(v)
		switch text {
		case "true", "1":
			return true
		case "false", "0", "":
			return false
		}
		a.wrong(name, "want true or false")
		return false
	}
}

// list reads a list of at most most texts; one that is missing or null is nil.
func (a *arguments) list(name string, most int) []string {
	return a.texts(name, a.values[name], most)
}

func (a *arguments) texts(name string, value any, most int) []string {
	var items []any
	switch v := value.(type) {
	case nil:
		return nil
	case []any:
		items = v
	case map[string]any: // of a form
		for i := range len(v) {
			item, ok := v[strconv.Itoa(i)]
			if !ok {
				a.wrong(name, "want a list")
				return nil
			}
			items = append(items, item)
		}
	default:
		a.wrong(name, "want a list")
		return nil
	}
	if len(items) > most {
		a.wrong(name, "there are more than %d items", most)
		return nil
	}
	all := make([]string, 0, len(items))
	for _, item := range items {
		s, ok := a.plain(item)
		if !ok {
			a.wrong(name, "want a list of texts of at most %d bytes, without NUL", maxText)
			return nil
		}
		all = append(all, s)
	}
	return all
}

// mapping reads a map; one that is missing or null is nil.
func (a *arguments) mapping(name string) map[string]any {
	if a.values[name] == nil {
		return nil
	}
	m, ok := asMap(a.values[name])
	if !ok {
		a.wrong(name, "want a map")
	}
	return m
}
