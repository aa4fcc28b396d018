package shell

import (
	"errors"
	"strings"
)

// split divides a command line into words as a POSIX shell would for the
// quoting that Git and our client produce: single and double quotes and
// backslashes. Nothing is expanded; there is no system shell to expand it.
func split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	started := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; c {
		case ' ', '\t', '\n':
			if started {
				words = append(words, word.String())
				word.Reset()
				started = false
			}
		case '\'':
			end := strings.IndexByte(line[i+1:], '\'')
			if end < 0 {
				return nil, errUnclosed
			}
			word.WriteString(line[i+1 : i+1+end])
			i += end + 1
			started = true
		case '"':
			started = true
			for i++; ; i++ {
				if i >= len(line) {
					return nil, errUnclosed
				}
				if line[i] == '"' {
					break
				}
				if line[i] == '\\' && i+1 < len(line) {
					i++
				}
				word.WriteByte(line[i])
			}
		case '\\':
			if i++; i >= len(line) {
				return nil, errUnclosed
			}
			word.WriteByte(line[i])
			started = true
		default:
			word.WriteByte(c)
			started = true
		}
	}
	if started {
		words = append(words, word.String())
	}
	return words, nil
}

var errUnclosed = errors.New("the command line has an unclosed quote")
