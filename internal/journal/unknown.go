package journal

import (
	"encoding/json"
	"reflect"
	"strings"
)

// recode is encode for a record that was read and changed: fields that a newer node
// has written and this one does not know stay as they were. Without that, a node
// that is still to be upgraded would take them away with any change it makes.
func recode[T any](old []byte, v T) string {
	var there, now map[string]json.RawMessage
	text := encode(v)
	if json.Unmarshal(old, &there) != nil || json.Unmarshal([]byte(text), &now) != nil {
		return text // no object, so there are no fields
	}
	known := map[string]bool{}
	fieldsOf(reflect.TypeFor[T](), known)
	kept := false
	for name, value := range there {
		if !known[name] {
			now[name], kept = value, true
		}
	}
	if !kept {
		return text
	}
	return encode(now)
}

// fieldsOf adds the names under which JSON has a struct's fields.
func fieldsOf(t reflect.Type, names map[string]bool) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			fieldsOf(f.Type, names)
		case name != "" && name != "-":
			names[name] = true
		case f.IsExported():
			names[f.Name] = true
		}
	}
}
