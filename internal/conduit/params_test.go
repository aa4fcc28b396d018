package conduit

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

func TestForm(t *testing.T) {
	for _, c := range []struct{ form, want string }{
		{"a=1&b=x%20y", `{"a":"1","b":"x y"}`},
		{"a=1&a=2", `{"a":"2"}`},
		{"names[0]=a&names[1]=b", `{"names":{"0":"a","1":"b"}}`},
		{"names[]=a&names[]=b", `{"names":{"0":"a","1":"b"}}`},
		{"names[1]=a&names[]=b", `{"names":{"1":"a","2":"b"}}`},
		{"constraints[shortNames][0]=x&constraints[ids][]=1", `{"constraints":{"ids":{"0":"1"},"shortNames":{"0":"x"}}}`},
		{"paths[src/a.c]=HEAD", `{"paths":{"src/a.c":"HEAD"}}`},
		{"=x&&a=", `{"a":""}`},
		{`params={"a":1,"l":["x"]}&output=json&__conduit__=1`, `{"a":1,"l":["x"]}`},
		{`params=[]`, `{}`},
		{"__form__=1&__csrf__=x&a=1", `{"a":"1"}`},
		// Refused.
		{"a=1&a[b]=2", `both a value and a list`},
		{"a[b]=2&a[b][c]=2", `both a value and a list`},
		{"a[b=2", `not of the form`},
		{"a[b]c=2", `not of the form`},
		{"[b]=2", `not of the form`},
		{"a[1][2][3][4][5][6]=x", "more than 6 parts"},
		{strings.Repeat("a[]=x&", maxPairs+1), "more than 2000"},
		{`params={`, "not JSON"},
		{`params={}{}`, "something follows"},
		{`params=7`, "not a JSON object"},
		{`params[a]=7&params[b]=`, `{"a":"7","b":""}`},
	} {
		values, err := url.ParseQuery(c.form)
		if err != nil {
			t.Fatal(err)
		}
		params, _, err := fromForm(values)
		got, _ := json.Marshal(params)
		if err != nil {
			got = []byte(err.Error())
		}
		if err == nil && string(got) != c.want || err != nil && !strings.Contains(string(got), c.want) {
			t.Errorf("%.80s: %s, want %s", c.form, got, c.want)
		}
	}
}

func TestTokenAmongParameters(t *testing.T) {
	for _, c := range []struct{ text, token, problem string }{
		{`{"api.token":"t","a":1}`, "t", ""},
		{`{"params":"{\"__conduit__\":{\"token\":\"t\"},\"a\":1}"}`, "t", ""},
		{`{"params":{"__conduit__":{"token":"t"},"a":1},"api.token":"t"}`, "t", ""},
		{`{"a":1,"api.token":null}`, "", ""},
		{`{"params":{"__conduit__":{"token":"t"}},"api.token":"u"}`, "", "more than one token"},
		{`{"api.token":["t"]}`, "", "no text"},
		{`{"params":{"__conduit__":{"auth.type":"asymmetric","auth.key":"x"}}}`, "", "signed"},
	} {
		params, token, err := fromJSON([]byte(c.text))
		if token != c.token || (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%s: token %q, error %v", c.text, token, err)
		}
		if got, _ := json.Marshal(params); err == nil && string(got) != `{"a":1}` {
			t.Errorf("%s: parameters %s", c.text, got)
		}
	}
}

func TestArguments(t *testing.T) {
	const text = `{"s":"x","n":7,"big":1e9,"neg":-1,"t":true,"f":"0","one":"1","null":null,"list":["a",1],"deep":[["a"]],"map":{"a":"b"},"php":[],
		"form":{"0":"a","1":"b"},"gap":{"0":"a","2":"b"},"nul":"a\u0000b","half":"1.5","empty":""}`
	params, _, err := fromJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	params["long"] = strings.Repeat("x", maxText+1)
	for name, c := range map[string]struct {
		read func(*arguments) any
		want string // JSON, or "" for a refusal
	}{
		"text":            {func(a *arguments) any { return a.text("s") }, `"x"`},
		"text of number":  {func(a *arguments) any { return a.text("n") }, `"7"`},
		"missing text":    {func(a *arguments) any { return a.text("nix") + a.text("null") }, `""`},
		"list as text":    {func(a *arguments) any { return a.text("list") }, ""},
		"long text":       {func(a *arguments) any { return a.text("long") }, ""},
		"NUL":             {func(a *arguments) any { return a.text("nul") }, ""},
		"required":        {func(a *arguments) any { return a.required("empty") }, ""},
		"number":          {func(a *arguments) any { return a.number("n", 1, 10) }, "7"},
		"number in text":  {func(a *arguments) any { return a.number("one", 5, 10) }, "1"},
		"missing number":  {func(a *arguments) any { return a.number("nix", 5, 10) + a.number("empty", 5, 10) }, "10"},
		"too great":       {func(a *arguments) any { return a.number("n", 1, 6) }, ""},
		"negative":        {func(a *arguments) any { return a.number("neg", 1, 6) }, ""},
		"exponent":        {func(a *arguments) any { return a.number("big", 1, 1<<30) }, ""},
		"fraction":        {func(a *arguments) any { return a.number("half", 1, 6) }, ""},
		"truth":           {func(a *arguments) any { return []bool{a.truth("t"), a.truth("f"), a.truth("one"), a.truth("nix")} }, `[true,false,true,false]`},
		"no truth":        {func(a *arguments) any { return a.truth("s") }, ""},
		"list":            {func(a *arguments) any { return a.list("list", 9) }, `["a","1"]`},
		"list of a form":  {func(a *arguments) any { return a.list("form", 9) }, `["a","b"]`},
		"missing list":    {func(a *arguments) any { return a.list("nix", 9) }, "null"},
		"empty list":      {func(a *arguments) any { return a.list("php", 9) }, "[]"},
		"list with a gap": {func(a *arguments) any { return a.list("gap", 9) }, ""},
		"list of lists":   {func(a *arguments) any { return a.list("deep", 9) }, ""},
		"long list":       {func(a *arguments) any { return a.list("list", 1) }, ""},
		"text as list":    {func(a *arguments) any { return a.list("s", 9) }, ""},
		"map":             {func(a *arguments) any { return a.mapping("map") }, `{"a":"b"}`},
		"PHP's empty map": {func(a *arguments) any { return a.mapping("php") }, `{}`},
		"list as map":     {func(a *arguments) any { return a.mapping("list") }, ""},
	} {
		a := &arguments{values: params}
		got, err := json.Marshal(c.read(a))
		if err != nil {
			t.Fatal(err)
		}
		if (a.err != nil) != (c.want == "") || a.err == nil && string(got) != c.want {
			t.Errorf("%s: %s, error %v; want %s", name, got, a.err, c.want)
		}
	}
}

// FuzzForm looks for forms that break the reader or get around its bounds.
func FuzzForm(f *testing.F) {
	for _, seed := range []string{"a=1", "a[]=1&a[][b]=2", "a[b][c]=x&a[b]=1", `params={"__conduit__":{"token":"x"}}`, "[=&]=&a[[]]=1", "api.token=x&a.b[c]=1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, form string) {
		values, err := url.ParseQuery(form)
		if err != nil {
			return
		}
		params, _, err := fromForm(values)
		if err != nil || len(values["params"]) > 0 {
			return
		}
		var depth func(v any) int
		depth = func(v any) int {
			most := 0
			if m, ok := v.(map[string]any); ok {
				for _, below := range m {
					most = max(most, depth(below)+1)
				}
			}
			return most
		}
		if d := depth(map[string]any(params)); d > maxDepth {
			t.Errorf("%d levels from %q", d, form)
		}
	})
}
