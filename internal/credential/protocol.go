package credential

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A Request is what Git asks a credential helper (git-credential(1), "input
// format"). Attributes this program has no use for are left out.
type Request struct {
	Protocol string
	Host     string // with the port, if the address names one
	Username string // if the address or the configuration names one
	AuthType bool   // Git understands authtype and credential (2.46 and later)
}

// Limits on a request. Git's own are those of its addresses.
const (
	maxRequest = 64 << 10
	maxLine    = 16 << 10
)

// ReadRequest reads a request, up to its blank line or the end of the stream.
func ReadRequest(r io.Reader) (Request, error) {
	var q Request
	limited := &io.LimitedReader{R: r, N: maxRequest + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := lines.Text()
		if line == "" {
			return q, nil
		}
		key, value, ok := strings.Cut(line, "=")
		// A NUL would end the value early for whoever reads it as C does, so two
		// programs would see two hosts.
		if !ok || key == "" || strings.ContainsRune(value, 0) {
			// The line is not repeated: it may hold a password.
			return Request{}, errors.New("the request has a line that is not key=value")
		}
		switch key {
		case "protocol":
			q.Protocol = value
		case "host":
			q.Host = value
		case "username":
			q.Username = value
		case "capability[]":
			q.AuthType = q.AuthType || value == "authtype"
		}
	}
	err := lines.Err()
	if errors.Is(err, bufio.ErrTooLong) || limited.N <= 0 {
		return Request{}, fmt.Errorf("the request is longer than %d bytes or has a line longer than %d", maxRequest, maxLine)
	}
	if err != nil {
		return Request{}, fmt.Errorf("read the request: %w", err)
	}
	return q, nil
}

// An Answer is what a helper tells Git, in the order it is to be read. None is
// no answer: Git asks the next helper.
type Answer []Attribute

// An Attribute is one line of an answer.
type Attribute struct{ Key, Value string }

// quit keeps Git from asking another helper, or a person.
var quit = Answer{{"quit", "1"}}

// WriteTo writes the answer with one call, or nothing if a part of it cannot be
// said: Git uses what it reads even from a helper that fails.
func (a Answer) WriteTo(w io.Writer) (int64, error) {
	var b bytes.Buffer
	for _, line := range a {
		// A newline in a value would be another attribute to Git.
		if strings.ContainsAny(line.Value, "\r\n\x00") {
			return 0, fmt.Errorf("the value of %q cannot be said in one line", line.Key)
		}
		fmt.Fprintf(&b, "%s=%s\n", line.Key, line.Value)
	}
	if b.Len() == 0 {
		return 0, nil
	}
	n, err := w.Write(b.Bytes())
	return int64(n), err
}
