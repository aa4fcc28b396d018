package localsocket

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"gitcluster/internal/cluster"
	"gitcluster/internal/session"
)

// Limits of a request.
const (
	maxRequest  = 64 << 10
	maxCommand  = 4096
	maxEnvValue = 256
	maxToken    = 256
)

// A SessionRequest asks the node to run one command.
type SessionRequest struct {
	Command string
	Env     map[string]string // only those of session.AllowedEnv are passed on
	// As is who runs it: a user, a device, or the operator. Whoever may use the
	// socket has the node's own account and could be any of them.
	As     cluster.Identity
	Remote netip.AddrPort // where they come from; zero if from this machine
}

// A HookRequest is a Git hook handing over to the node that started its push or fetch.
type HookRequest struct {
	Hook string            // "pre-receive", "proc-receive" or "pack-objects"
	Push string            // the token by which the node knows the push or fetch
	Args []string          // of pack-objects: what upload-pack would have run
	Env  map[string]string // where the push's objects are, its options, and its certificate
}

// The hooks that a node serves.
const (
	PreReceive  = "pre-receive"
	ProcReceive = "proc-receive"
	PackObjects = "pack-objects" // uploadpack.packObjectsHook
)

// hookEnv are the variables of a hook that the node needs; the push options are
// besides these.
var hookEnv = map[string]bool{
	"GIT_QUARANTINE_PATH":              true,
	"GIT_OBJECT_DIRECTORY":             true,
	"GIT_ALTERNATE_OBJECT_DIRECTORIES": true,
	"GIT_PUSH_OPTION_COUNT":            true,
	"GIT_PUSH_CERT":                    true,
	"GIT_PUSH_CERT_KEY":                true,
	"GIT_PUSH_CERT_STATUS":             true,
	"GIT_PUSH_CERT_NONCE_STATUS":       true,
}

const pushOption = "GIT_PUSH_OPTION_"

func isHookEnv(name string) bool {
	if hookEnv[name] {
		return true
	}
	n, ok := strings.CutPrefix(name, pushOption)
	return ok && n != "" && len(n) <= 9 && strings.Trim(n, "0123456789") == ""
}

// request is the first line of a connection.
type request struct {
	Kind    string            `json:"kind"` // "session" or "hook"
	Command string            `json:"command,omitempty"`
	As      *asWho            `json:"as,omitempty"`
	Remote  string            `json:"remote,omitempty"`
	Hook    string            `json:"hook,omitempty"`
	Push    string            `json:"push,omitempty"`
	Args    []string          `json:"args,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
}

// asWho names exactly one.
type asWho struct {
	User     string `json:"user,omitempty"`
	Device   string `json:"device,omitempty"`
	Operator bool   `json:"operator,omitempty"`
}

const (
	kindSession = "session"
	kindHook    = "hook"
)

// line encodes a request as it goes over the wire.
func (r request) line() ([]byte, error) {
	for name, value := range r.Env {
		// JSON would put replacement characters there, and so name other files.
		if !utf8.ValidString(value) {
			return nil, fmt.Errorf("the value of %s is not UTF-8", name)
		}
	}
	if slices.ContainsFunc(r.Args, func(arg string) bool { return !utf8.ValidString(arg) }) {
		return nil, errors.New("an argument is not UTF-8")
	}
	if !utf8.ValidString(r.Command) {
		return nil, errors.New("the command is not UTF-8")
	}
	line, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if len(line) >= maxRequest {
		return nil, fmt.Errorf("the request is longer than %d bytes; with many push options, send fewer", maxRequest)
	}
	return append(line, '\n'), nil
}

func (s SessionRequest) wire() request {
	r := request{Kind: kindSession, Command: s.Command, Env: make(map[string]string)}
	for name, value := range s.Env {
		if session.AllowedEnv[name] {
			r.Env[name] = value
		}
	}
	r.As = &asWho{User: string(s.As.User), Device: string(s.As.Device), Operator: s.As.Operator}
	if s.Remote.IsValid() {
		r.Remote = s.Remote.String()
	}
	return r
}

func (h HookRequest) wire() request {
	return request{Kind: kindHook, Hook: h.Hook, Push: h.Push, Args: h.Args, Env: h.Env}
}

// readRequest reads the first line. The reader's buffer bounds its length.
func readRequest(r *bufio.Reader) (request, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return request{}, fmt.Errorf("the request is longer than %d bytes", maxRequest)
	}
	if err != nil {
		return request{}, err
	}
	return parseRequest(line)
}

func parseRequest(line []byte) (request, error) {
	var req request
	dec := json.NewDecoder(bytes.NewReader(line))
	// A field we do not know may be one that asks for less than we would give.
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		return request{}, fmt.Errorf("bad request: %w", err)
	}
	if len(bytes.TrimSpace(line[dec.InputOffset():])) > 0 {
		return request{}, errors.New("bad request: more than one value")
	}
	switch req.Kind {
	case kindSession:
		if req.Hook != "" || req.Push != "" || req.Args != nil {
			return request{}, errors.New("bad request: a session with a hook's fields")
		}
	case kindHook:
		if req.Command != "" || req.As != nil || req.Remote != "" {
			return request{}, errors.New("bad request: a hook with a session's fields")
		}
	default:
		return request{}, fmt.Errorf("bad request: unknown kind %.20q", req.Kind)
	}
	return req, nil
}

// session checks a request of that kind.
func (r request) session() (SessionRequest, error) {
	s := SessionRequest{Command: r.Command, Env: make(map[string]string)}
	if len(r.Command) > maxCommand {
		return s, fmt.Errorf("the command is longer than %d bytes", maxCommand)
	}
	for name, value := range r.Env {
		if session.AllowedEnv[name] && len(value) <= maxEnvValue && isPrintable(value) {
			s.Env[name] = value
		}
	}
	var err error
	if s.As, err = r.As.identity(); err != nil {
		return s, err
	}
	if r.Remote != "" {
		remote, err := netip.ParseAddrPort(r.Remote)
		if err != nil {
			return s, fmt.Errorf("bad address %.60q of the client", r.Remote)
		}
		s.Remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	}
	return s, nil
}

func (a *asWho) identity() (id cluster.Identity, err error) {
	if a == nil {
		return id, errors.New("the request does not say as whom")
	}
	named := 0
	if a.User != "" {
		named++
		if id.User, err = cluster.ParseUserName(a.User); err != nil {
			return cluster.Identity{}, err
		}
	}
	if a.Device != "" {
		named++
		if id.Device, err = cluster.ParseDeviceName(a.Device); err != nil {
			return cluster.Identity{}, err
		}
	}
	if a.Operator {
		named++
		id.Operator = true
	}
	if named != 1 {
		return cluster.Identity{}, errors.New("the request must be as one of a user, a device and the operator")
	}
	return id, nil
}

// hook checks a request of that kind.
func (r request) hook() (HookRequest, error) {
	h := HookRequest{Hook: r.Hook, Push: r.Push, Args: r.Args, Env: r.Env}
	switch {
	case !isHook(r.Hook):
		return h, fmt.Errorf("unknown hook %.20q", r.Hook)
	case r.Hook != PackObjects && r.Args != nil:
		return h, fmt.Errorf("the hook %q has no arguments", r.Hook)
	case slices.ContainsFunc(r.Args, func(arg string) bool { return strings.ContainsRune(arg, 0) }):
		return h, errors.New("an argument has a NUL byte")
	}
	if !isToken(r.Push) {
		return h, errors.New("the hook has no token of a push")
	}
	for name, value := range r.Env {
		if !isHookEnv(name) {
			return h, fmt.Errorf("a hook does not pass on the variable %.60q", name)
		}
		if strings.ContainsRune(value, 0) {
			return h, fmt.Errorf("the value of %s has a NUL byte", name)
		}
	}
	return h, nil
}

func isHook(name string) bool {
	return name == PreReceive || name == ProcReceive || name == PackObjects
}

func isToken(s string) bool {
	return s != "" && len(s) <= maxToken && isPrintable(s) && !strings.Contains(s, " ")
}

func isPrintable(s string) bool {
	for _, b := range []byte(s) {
		if b < ' ' || b > '~' {
			return false
		}
	}
	return true
}
