package remotehelper

import (
	"errors"
	"strings"
)

// unquote undoes the quoting Git applies to a string option that holds unusual
// bytes: a C string in double quotes. The result may hold no control byte, which
// could end the command line on the server early.
func unquote(s string) (string, error) {
	if rest, ok := strings.CutPrefix(s, `"`); ok {
		var err error
		if s, err = unquoteC(rest); err != nil {
			return "", err
		}
	}
	switch {
	case s == "":
		return "", errors.New("it is empty")
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", errors.New("it has a control byte")
	}
	return s, nil
}

// unquoteC reads up to the closing quote, which must be the end.
func unquoteC(s string) (string, error) {
	bad := errors.New("its quoting is broken")
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"' && i == len(s)-1:
			return b.String(), nil
		case c == '"':
			return "", bad
		case c != '\\':
			b.WriteByte(c)
			continue
		}
		if i++; i >= len(s) {
			return "", bad
		}
		if k := strings.IndexByte(`abfnrtv"\`, s[i]); k >= 0 {
			b.WriteByte("\a\b\f\n\r\t\v\"\\"[k])
			continue
		}
		if i+3 > len(s) {
			return "", bad
		}
		value := 0
		for _, d := range []byte(s[i : i+3]) {
			if d < '0' || d > '7' {
				return "", bad
			}
			value = value<<3 | int(d-'0')
		}
		if value > 0xff {
			return "", bad
		}
		b.WriteByte(byte(value))
		i += 2
	}
	return "", bad
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:77] + "..."
	}
	return s
}
