// Package admin is the administration of a cluster: requests and answers in
// JSON, served by a node to `git cluster` over its Unix socket or over SSH.
//
// Entry points: [Server.Serve] answers one request; [Call] makes one over any
// pair of streams; the parameter and result types are the methods' contract.
//
// It promises that every method checks what the asker may do, and that a method
// that changes something changes all of it or nothing.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/journal"
	"gitcluster/internal/observe"
	"gitcluster/internal/service"
)

// A Server answers requests on one node.
type Server struct {
	Cluster journal.ClusterRecord
	Device  cluster.DeviceName
	Version string
	Journal *journal.Journal
	Members *journal.Members // nil where the journal is not embedded
	Engine  *engine.Engine
	Service *service.Service
	Mirrors *observe.Observer
	Rules   service.Directory
	Nodes   Nodes  // the other nodes
	Lost    string // folder for what is saved before something is given up as lost
	Log     *slog.Logger

	surveys surveys
}

type request struct {
	Method string          `json:"method"`
	Params json.RawMessage `json:"params,omitempty"`
}

type response struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
	Hint   string          `json:"hint,omitempty"`
}

// maxRequest bounds a request; the largest holds a user's keys.
const maxRequest = 1 << 20

// Serve reads one request from r and writes its answer to w. Lines for the person
// who waits for that go to progress, each after "# ".
func (s *Server) Serve(ctx context.Context, id cluster.Identity, r io.Reader, w, progress io.Writer) int {
	var q request
	var result any
	err := json.NewDecoder(io.LimitReader(r, maxRequest)).Decode(&q)
	if err != nil {
		err = fmt.Errorf("malformed administrative request: %w", err)
	} else {
		result, err = s.call(ctx, id, q, func(line string) { fmt.Fprintf(progress, "# %s\n", line) })
		log := s.Log.With("method", q.Method, "identity", id.String())
		if err != nil {
			log = log.With("error", err)
		}
		log.Info("admin")
	}
	var answer response
	if err == nil {
		answer.Result, err = json.Marshal(result)
	}
	if err != nil {
		answer = response{Error: err.Error(), Hint: cluster.Hint(err)}
	}
	if json.NewEncoder(w).Encode(answer) != nil || err != nil {
		return 1
	}
	return 0
}

// Call sends a request over w, and reads its answer from r into result.
func Call(r io.Reader, w io.WriteCloser, method string, params, result any) error {
	raw, err := json.Marshal(params)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(w).Encode(request{Method: method, Params: raw}); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	var answer response
	if err := json.NewDecoder(r).Decode(&answer); err != nil {
		return fmt.Errorf("the node gave no answer: %w", err)
	}
	if answer.Error != "" {
		return cluster.WithHint(errors.New(answer.Error), answer.Hint)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(answer.Result, result)
}

// call runs one method. Those that concern the cluster itself are for
// administrators; those on one repository are decided by the role on it, and
// those on a user's tokens by whose they are.
func (s *Server) call(ctx context.Context, id cluster.Identity, q request, tell func(string)) (any, error) {
	switch q.Method {
	case "status":
		return s.status(ctx, id)
	case "repo.create":
		return with(q, func(p RepoCreate) (any, error) { return s.repoCreate(ctx, id, p) })
	case "repo.list":
		return with(q, func(p RepoList) (any, error) { return s.repoList(ctx, id, p) })
	case "repo.show":
		return with(q, func(p RepoName) (any, error) { return s.repoShow(ctx, id, p) })
	case "repo.rename":
		return with(q, func(p RepoRename) (any, error) { return nil, s.repoRename(ctx, id, p) })
	case "repo.delete":
		return with(q, func(p RepoDelete) (any, error) { return nil, s.repoDelete(ctx, id, p) })
	case "repo.log":
		return with(q, func(p RepoLog) (any, error) { return s.repoLog(ctx, id, p) })
	case "repo.set":
		return with(q, func(p RepoSet) (any, error) { return nil, s.repoSet(ctx, id, p) })
	case "pull":
		return with(q, func(p Pull) (any, error) { return s.pull(ctx, id, p, tell) })
	case "user.token.create":
		return with(q, func(p UserTokenCreate) (any, error) { return s.userTokenCreate(ctx, id, p) })
	case "user.token.list":
		return with(q, func(p UserName) (any, error) { return s.userTokenList(ctx, id, p) })
	case "user.token.revoke":
		return with(q, func(p UserTokenRevoke) (any, error) { return nil, s.userTokenRevoke(ctx, id, p) })
	}
	if isNodeMethod(q.Method) {
		if err := s.mustNode(id); err != nil {
			return nil, err
		}
		return s.node(ctx, q)
	}
	if err := s.mustAdmin(ctx, id); err != nil {
		return nil, err
	}
	switch q.Method {
	case "backup":
		return with(q, func(p BackupWrite) (any, error) { return s.backupWrite(ctx, id, p, tell) })
	case "restore":
		return with(q, func(p BackupRestore) (any, error) { return s.backupRestore(ctx, id, p, tell) })
	case "repo.maintain":
		return with(q, func(p RepoMaintain) (any, error) { return s.repoMaintain(ctx, id, p, tell) })
	case "repo.lock":
		return with(q, func(p RepoLock) (any, error) { return s.repoLock(ctx, id, p) })
	case "repo.unlock":
		return with(q, func(p RepoLock) (any, error) { return s.repoUnlock(ctx, id, p) })
	case "repo.verify":
		return with(q, func(p RepoVerify) (any, error) { return s.repoVerify(ctx, id, p) })
	case "repo.repair":
		return with(q, func(p RepoRepair) (any, error) { return s.repoRepair(ctx, id, p) })
	case "repo.loss":
		return with(q, func(p RepoLoss) (any, error) { return s.repoLoss(ctx, id, p) })
	case "repo.accept-loss":
		return with(q, func(p LossAccept) (any, error) { return s.lossAccept(ctx, id, p) })
	case "repo.observe":
		return with(q, func(p RepoObserve) (any, error) { return s.repoObserve(ctx, id, p, tell) })
	case "repo.unobserve":
		return with(q, func(p RepoName) (any, error) { return nil, s.repoUnobserve(ctx, id, p) })
	case "user.list":
		return s.userList(ctx)
	case "user.add":
		return with(q, func(p UserAdd) (any, error) { return nil, s.userAdd(ctx, p) })
	case "user.remove":
		return with(q, func(p UserName) (any, error) { return nil, s.Journal.RemoveUser(ctx, p.User) })
	case "key.find":
		return with(q, func(p KeyFind) (any, error) { return s.keyFind(ctx, p) })
	case "key.add":
		return with(q, func(p KeyChange) (any, error) { return nil, s.keyAdd(ctx, p) })
	case "key.remove":
		return with(q, func(p KeyChange) (any, error) { return nil, s.keyRemove(ctx, p) })
	case "grant.list":
		d, err := s.Journal.Directory(ctx)
		return d.Grants, err
	case "grant":
		return with(q, func(p GrantChange) (any, error) { return nil, s.grant(ctx, p) })
	case "revoke":
		return with(q, func(p GrantChange) (any, error) { return nil, s.revoke(ctx, p) })
	case "device.list":
		d, err := s.Journal.Directory(ctx)
		return d.Devices, err
	case "device.show":
		return with(q, func(p DeviceName) (any, error) { return s.deviceShow(ctx, p) })
	case "drain.status":
		return with(q, func(p DeviceName) (any, error) { return s.drainStatus(ctx, p) })
	case "device.remove":
		return with(q, func(p DeviceRemove) (any, error) { return nil, s.deviceRemove(ctx, p) })
	case "device.set":
		return with(q, func(p DeviceSet) (any, error) { return nil, s.deviceSet(ctx, p) })
	case "token.create":
		return with(q, func(p TokenCreate) (any, error) { return s.tokenCreate(ctx, p) })
	}
	return nil, fmt.Errorf("unknown method %q: this node is version %s", q.Method, s.Version)
}

func with[P any](q request, do func(P) (any, error)) (any, error) {
	var p P
	if err := json.Unmarshal(q.Params, &p); err != nil {
		return nil, fmt.Errorf("parameters of %s: %w", q.Method, err)
	}
	return do(p)
}

func (s *Server) mustAdmin(ctx context.Context, id cluster.Identity) error {
	if s.Rules.Snapshot().Admin(id) {
		return nil
	}
	if rules, err := s.Rules.Refresh(ctx); err == nil && rules.Admin(id) {
		return nil
	}
	return cluster.WithHint(fmt.Errorf("%s is no administrator: %w", id, cluster.ErrDenied),
		"run it on a node as the account the node runs as, or as a user added with --admin")
}

// UserAdd makes a user.
type UserAdd struct {
	User  cluster.UserName `json:"user"`
	Keys  []string         `json:"keys"`
	Admin bool             `json:"admin"`
}

// UserName names a user.
type UserName struct {
	User cluster.UserName `json:"user"`
}

// KeyChange adds or removes a user's key. To remove one, its SHA-256
// fingerprint or its comment will do.
type KeyChange struct {
	User cluster.UserName `json:"user"`
	Key  string           `json:"key"`
}

// KeyFind asks whose a key is.
type KeyFind struct {
	Key string `json:"key"`
}

// KeyOwner is at most one of the two.
type KeyOwner struct {
	User   cluster.UserName   `json:"user,omitempty"`
	Device cluster.DeviceName `json:"device,omitempty"`
}

// keyFind finds nobody for a key that two have: it would name neither.
func (s *Server) keyFind(ctx context.Context, p KeyFind) (owner KeyOwner, err error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(p.Key))
	if err != nil {
		return owner, errors.New("that is no SSH public key")
	}
	rules, err := s.Rules.Refresh(ctx)
	if err != nil {
		return owner, err
	}
	users, devices := rules.ByKey(key)
	switch {
	case len(users) == 1 && len(devices) == 0:
		owner.User = users[0]
	case len(users) == 0 && len(devices) == 1:
		owner.Device = devices[0]
	}
	return owner, nil
}

func (s *Server) userAdd(ctx context.Context, p UserAdd) error {
	if _, err := cluster.ParseUserName(string(p.User)); err != nil {
		return err
	}
	u := cluster.User{Name: p.User, Admin: p.Admin}
	for _, line := range p.Keys {
		if err := s.addKey(ctx, &u, line); err != nil {
			return err
		}
	}
	return s.Journal.AddUser(ctx, u)
}

func (s *Server) keyAdd(ctx context.Context, p KeyChange) error {
	return s.Journal.ChangeUser(ctx, p.User, func(u *cluster.User) error { return s.addKey(ctx, u, p.Key) })
}

// addKey adds a key that nobody else has: one that two could hold would name
// neither.
func (s *Server) addKey(ctx context.Context, u *cluster.User, line string) error {
	line, fingerprint, err := NormalKey(line)
	if err != nil {
		return err
	}
	d, err := s.Journal.Directory(ctx)
	if err != nil {
		return err
	}
	for _, other := range append(d.Users, *u) {
		for _, key := range other.Keys {
			if _, f, err := NormalKey(key); err == nil && f == fingerprint {
				return fmt.Errorf("the key %s is that of user %q: %w", fingerprint, other.Name, cluster.ErrExists)
			}
		}
	}
	for _, device := range d.Devices {
		if _, f, err := NormalKey(device.PublicKey); err == nil && f == fingerprint {
			return fmt.Errorf("the key %s is that of device %q: %w", fingerprint, device.Name, cluster.ErrExists)
		}
	}
	u.Keys = append(u.Keys, line)
	return nil
}

func (s *Server) keyRemove(ctx context.Context, p KeyChange) error {
	return s.Journal.ChangeUser(ctx, p.User, func(u *cluster.User) error {
		before := len(u.Keys)
		want := p.Key
		if _, f, err := NormalKey(p.Key); err == nil {
			want = f
		}
		u.Keys = slices.DeleteFunc(u.Keys, func(line string) bool {
			_, f, err := NormalKey(line)
			words := strings.Fields(line)
			return err == nil && f == want || len(words) > 2 && strings.Join(words[2:], " ") == want
		})
		if len(u.Keys) == before {
			return fmt.Errorf("user %q has no key %q: %w", p.User, p.Key, cluster.ErrNotFound)
		}
		return nil
	})
}

// NormalKey checks an authorized_keys line and gives it without options, with the
// key's fingerprint.
func NormalKey(line string) (normal, fingerprint string, err error) {
	key, comment, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return "", "", errors.New("that is no SSH public key; give the contents of a .pub file")
	}
	if len(options) > 0 {
		return "", "", errors.New("options before a key have no meaning here; give the contents of a .pub file")
	}
	normal = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	if comment != "" {
		normal += " " + comment
	}
	return normal, ssh.FingerprintSHA256(key), nil
}

// GrantChange gives a subject a role on a pattern, or takes back what it has
// there.
type GrantChange struct {
	Subject string `json:"subject"`
	Role    string `json:"role,omitempty"`
	Pattern string `json:"pattern"`
}

func (s *Server) grant(ctx context.Context, p GrantChange) error {
	role, err := cluster.ParseRole(p.Role)
	if err != nil {
		return err
	}
	pattern, err := cluster.ParseRepoPattern(p.Pattern)
	if err != nil {
		return err
	}
	d, err := s.Journal.Directory(ctx)
	if err != nil {
		return err
	}
	known := p.Subject == cluster.EveryUser ||
		slices.ContainsFunc(d.Users, func(u cluster.User) bool { return string(u.Name) == p.Subject }) ||
		slices.ContainsFunc(d.Devices, func(v cluster.Device) bool { return "device/"+string(v.Name) == p.Subject })
	if !known {
		return cluster.WithHint(fmt.Errorf("subject %q: %w", p.Subject, cluster.ErrNotFound),
			"a subject is a user's name, device/NAME, or @all for every user")
	}
	return s.Journal.SetGrant(ctx, cluster.Grant{Subject: p.Subject, Role: role, Pattern: pattern})
}

func (s *Server) revoke(ctx context.Context, p GrantChange) error {
	pattern, err := cluster.ParseRepoPattern(p.Pattern)
	if err != nil {
		return err
	}
	return s.Journal.RemoveGrant(ctx, p.Subject, pattern)
}
