package node

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/credential"
	"gitcluster/internal/durable"
	"gitcluster/internal/journal"
	"gitcluster/internal/session"
	"gitcluster/internal/sshserver"
)

// Joining is one conversation over SSH between a machine that knows a token and
// a node that knows it too. Neither sends the token's secret: each proves by a
// keyed hash over both nonces and the host key that it knows it. So a machine in the
// middle, whose host key is another, can neither join nor admit.

// joinHello is the joiner's first line.
type joinHello struct {
	Token string `json:"token"` // the token's id
	Nonce []byte `json:"nonce"`
}

// joinChallenge is the node's answer.
type joinChallenge struct {
	Nonce []byte `json:"nonce,omitempty"`
	Proof []byte `json:"proof,omitempty"`
	Error string `json:"error,omitempty"`
	// NeedsTLS is set where the journal is an etcd of its own, for which a node
	// must bring its credentials.
	NeedsTLS bool `json:"needs_tls,omitempty"`
}

// joinRequest is what the joiner asks for.
type joinRequest struct {
	Name    cluster.DeviceName `json:"name"`
	SSH     string             `json:"ssh"`
	HTTP    string             `json:"http,omitempty"`
	Region  string             `json:"region,omitempty"`
	Peer    string             `json:"peer,omitempty"`    // its journal server; empty: it wants none
	Request []byte             `json:"request,omitempty"` // certificate request, PEM; none for a device that is no node
	Disk    string             `json:"incarnation"`
}

// kind is what the joiner wants to be. Only a node has certificates to ask for.
func (q joinRequest) kind() string {
	if len(q.Request) > 0 {
		return "node"
	}
	return "device"
}

type provenRequest struct {
	Body  []byte `json:"body"` // a joinRequest
	Proof []byte `json:"proof"`
}

// joinReply admits the joiner. What follows Nodes is for nodes only.
type joinReply struct {
	Error     string   `json:"error,omitempty"`
	Hint      string   `json:"hint,omitempty"`
	Cluster   string   `json:"cluster"`
	ClusterID string   `json:"cluster_id"`
	Nodes     []string `json:"nodes"` // addresses
	CA        []byte   `json:"ca"`
	Cert      []byte   `json:"cert"`
	Revoked   []byte   `json:"revoked,omitempty"`   // list of certificates that count no more, DER
	Initial   string   `json:"initial,omitempty"`   // the journal's members; empty: be a client only
	Servers   []string `json:"servers,omitempty"`   // the journal's voters
	Endpoints []string `json:"endpoints,omitempty"` // an etcd cluster that is not embedded

	hostKey ssh.PublicKey // which the node has proved to be its own, with the token
}

// maxJoinReply is larger: the list of revoked certificates grows with every node
// that was ever removed.
const (
	maxJoinLine  = 64 << 10
	maxJoinReply = 1 << 20
)

// Join makes this machine a node of the cluster that the node at seed belongs
// to. Nothing runs afterwards; the node is started by [Open].
func Join(ctx context.Context, seed, token string, s Settings) error {
	if err := checkMachine(ctx); err != nil {
		return err
	}
	if _, err := cluster.ParseDeviceName(string(s.Name)); err != nil {
		return err
	}
	id, secret, err := admin.ParseToken(token)
	if err != nil {
		return err
	}
	return build(s.Dir, func(d dataDir) error {
		k, err := d.createKey(string(s.Name))
		if err != nil {
			return err
		}
		request, private, err := journal.NewRequest(string(s.Name), hostOf(s.Peer), s.Advertise)
		if err != nil {
			return err
		}
		incarnation := journal.NewID()
		if err := durable.WriteFile(d.path("incarnation"), []byte(incarnation+"\n"), 0o600); err != nil {
			return err
		}
		self, err := d.write(s, "joining", "joining") // the reply fills this in
		if err != nil {
			return err
		}
		if err := d.makeCertificate(self); err != nil {
			return err
		}
		ask := joinRequest{Name: s.Name, SSH: self.SSHAddress(), HTTP: self.HTTPAddress(), Region: s.Region, Request: request, Disk: incarnation}
		if s.Peer != "" {
			_, port, err := net.SplitHostPort(s.Peer)
			if err != nil {
				return fmt.Errorf("address %q: %w", s.Peer, err)
			}
			ask.Peer = s.Peer
			if s.Advertise != "" {
				ask.Peer = net.JoinHostPort(s.Advertise, port)
			}
		}
		reply, err := askToJoin(ctx, seed, k, id, secret, ask, s.TLS != "")
		if err != nil {
			return err
		}
		self.Cluster, self.ClusterID = reply.Cluster, reply.ClusterID
		switch {
		case len(reply.Endpoints) > 0:
			self.Journal = config.SelfJournal{Endpoints: reply.Endpoints, TLS: s.TLS}
		case reply.Initial == "":
			self.Journal.Servers, self.Journal.Spare = reply.Servers, self.Journal.Peer != ""
		default:
			self.Journal.Initial, self.Journal.Servers = reply.Initial, reply.Servers
		}
		return errors.Join(
			d.saveIdentity(self, append(reply.Nodes, addresses(self)...)),
			(journal.Certificates{CA: reply.CA, Cert: reply.Cert, Key: private, Revoked: reply.Revoked}).Save(d.path("tls")),
			self.Write(d.config()))
	})
}

// Enroll makes this machine a device of the cluster that the node at seed belongs
// to, with its identity in dir: it may fetch as itself, and serves nothing. The key is
// the node's own, which it has proved with the token.
func Enroll(ctx context.Context, seed, token, dir string, name cluster.DeviceName) (*credential.Identity, ssh.PublicKey, error) {
	if _, err := cluster.ParseDeviceName(string(name)); err != nil {
		return nil, nil, err
	}
	id, secret, err := admin.ParseToken(token)
	if err != nil {
		return nil, nil, err
	}
	identity, err := credential.Prepare(dir, name)
	if err != nil {
		return nil, nil, err
	}
	reply, err := askToJoin(ctx, seed, identity.Signer(), id, secret, joinRequest{Name: name, Disk: journal.NewID()}, false)
	if err != nil {
		return nil, nil, err
	}
	identity.Cluster, identity.ClusterID, identity.Hosts = reply.Cluster, reply.ClusterID, reply.Nodes
	if !slices.Contains(identity.Hosts, seed) { // it may have another name from here
		identity.Hosts = append(identity.Hosts, seed)
	}
	return identity, reply.hostKey, identity.Save(dir)
}

// askToJoin is the joiner's side of the conversation.
func askToJoin(ctx context.Context, seed string, k ssh.Signer, id string, secret []byte, ask joinRequest, hasTLS bool) (*joinReply, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	var dialer net.Dialer
	tcp, err := dialer.DialContext(ctx, "tcp", seed)
	if err != nil {
		return nil, cluster.WithHint(fmt.Errorf("reach the node at %s: %w", seed, err), "give the SSH address of a running node, host:port")
	}
	defer tcp.Close()
	defer context.AfterFunc(ctx, func() { tcp.Close() })()
	var hostKey ssh.PublicKey
	conn, channels, requests, err := ssh.NewClientConn(tcp, seed, &ssh.ClientConfig{
		User: sshserver.JoinUser,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(k)},
		// Any key is accepted here; the node's proof covers the one it showed.
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error { hostKey = key; return nil },
	})
	if err != nil {
		return nil, fmt.Errorf("reach the node at %s: %w", seed, err)
	}
	client := ssh.NewClient(conn, channels, requests)
	defer client.Close()
	s, err := client.NewSession()
	if err != nil {
		return nil, err
	}
	stdin, err := s.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := s.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.Start(sshserver.JoinCommand); err != nil {
		return nil, err
	}
	lines := bufio.NewReaderSize(stdout, maxJoinReply)
	mine := nonce()
	if err := send(stdin, joinHello{Token: id, Nonce: mine}); err != nil {
		return nil, err
	}
	var challenge joinChallenge
	if err := receive(lines, &challenge); err != nil {
		return nil, fmt.Errorf("the server at %s does not answer as a node: %w", seed, err)
	}
	if challenge.Error != "" {
		return nil, cluster.WithHint(errors.New(challenge.Error), "`git cluster status` on a node shows the cluster; `git cluster token create` prints a new token")
	}
	if !hmac.Equal(challenge.Proof, proof(secret, "node", hostKey.Marshal(), mine, challenge.Nonce)) {
		return nil, cluster.WithHint(errors.New("the server could not prove that it knows the token; nothing was sent to it"),
			"the token may be mistyped, or the server is not the node you think it is")
	}
	if challenge.NeedsTLS && ask.kind() == "node" && !hasTLS {
		return nil, cluster.WithHint(errors.New("this cluster's journal is an etcd of its own, which asks for a certificate"),
			"add --journal-tls DIR, a folder with ca.pem, node.pem and node-key.pem; the token is still good")
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	proven := provenRequest{Body: body, Proof: proof(secret, "joiner", hostKey.Marshal(), mine, challenge.Nonce, k.PublicKey().Marshal(), body)}
	if err := send(stdin, proven); err != nil {
		return nil, err
	}
	var reply joinReply
	if err := receive(lines, &reply); err != nil {
		return nil, fmt.Errorf("the node at %s ended the conversation: %w", seed, err)
	}
	if reply.Error != "" {
		return nil, cluster.WithHint(errors.New(reply.Error), reply.Hint)
	}
	reply.hostKey = hostKey
	return &reply, nil
}

// admitJoiner is the node's side. The key is the one that the joiner proved to
// hold; it becomes the device's.
func (n *Node) admitJoiner(ctx context.Context, public ssh.PublicKey, s *session.Session) int {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	lines := bufio.NewReaderSize(s.Stdin, maxJoinLine)
	var hello joinHello
	if err := receive(lines, &hello); err != nil || len(hello.Nonce) > 64 {
		return 1
	}
	short, cancelShort := context.WithTimeout(ctx, 5*time.Second)
	token, err := n.journal.Token(short, hello.Token)
	cancelShort()
	if err != nil {
		n.log.Warn("join refused", "remote", s.Remote.String(), "error", err)
		send(s.Stdout, joinChallenge{Error: tokenError(err)})
		return 1
	}
	mine, hostKey := nonce(), n.key.PublicKey().Marshal()
	if err := send(s.Stdout, joinChallenge{Nonce: mine, Proof: proof(token.Secret, "node", hostKey, hello.Nonce, mine),
		NeedsTLS: n.members == nil && n.self.Journal.TLS != ""}); err != nil {
		return 1
	}
	var proven provenRequest
	if err := receive(lines, &proven); err != nil {
		return 1
	}
	reply, err := func() (joinReply, error) {
		want := proof(token.Secret, "joiner", hostKey, hello.Nonce, mine, public.Marshal(), proven.Body)
		if !hmac.Equal(proven.Proof, want) {
			return joinReply{}, errors.New("the token's secret is wrong")
		}
		var ask joinRequest
		if err := json.Unmarshal(proven.Body, &ask); err != nil {
			return joinReply{}, err
		}
		return n.admit(ctx, token, public, ask)
	}()
	if err != nil {
		n.log.Warn("join refused", "remote", s.Remote.String(), "error", err)
		reply = joinReply{Error: err.Error(), Hint: cluster.Hint(err)}
	}
	if send(s.Stdout, reply) != nil || err != nil {
		return 1
	}
	return 0
}

func (n *Node) admit(ctx context.Context, token journal.Token, public ssh.PublicKey, ask joinRequest) (reply joinReply, err error) {
	if want := ask.kind(); token.Kind != want {
		return reply, cluster.WithHint(fmt.Errorf("this token admits a %s, not a %s", token.Kind, want), "`git cluster token create` makes one for a node, with --device one for a device")
	}
	if _, err := cluster.ParseDeviceName(string(ask.Name)); err != nil {
		return reply, err
	}
	there, rejoins := n.rules.Snapshot().Device(ask.Name)
	if rejoins && (there.PublicKey != publicLine(public) || !there.Enabled || !there.Trusted) {
		return reply, cluster.WithHint(fmt.Errorf("device %q: %w", ask.Name, cluster.ErrExists), "give the node another --name")
	}
	if err := n.journal.UseToken(ctx, token.ID); err != nil {
		return reply, errors.New(tokenError(err))
	}
	defer func() {
		if err != nil {
			// Nobody joined by it, so it is good for another try.
			if restoreErr := n.journal.CreateToken(context.WithoutCancel(ctx), token); restoreErr != nil {
				n.log.Warn("restore the token of a failed join", "error", restoreErr)
			}
		}
	}()
	reply = joinReply{Cluster: n.cluster.Name, ClusterID: n.cluster.ID}
	for _, d := range n.rules.Snapshot().Nodes() {
		reply.Nodes = append(reply.Nodes, d.SSH)
		if d.HTTP != "" && hostOf(d.HTTP) != hostOf(d.SSH) {
			reply.Nodes = append(reply.Nodes, d.HTTP)
		}
	}
	device := cluster.Device{Name: ask.Name, PublicKey: publicLine(public), Region: ask.Region, Enabled: true, Trusted: true, Joined: time.Now().UTC()}
	if ask.kind() == "device" {
		err = n.journal.AddDevice(ctx, device, ask.Disk)
		n.log.Info("device admitted", "name", ask.Name, "error", err)
		return reply, err
	}
	device.Node, device.New, device.SSH, device.HTTP, device.Writable = true, true, ask.SSH, ask.HTTP, true
	data, err := n.journal.AuthorityKey(ctx)
	if err != nil {
		return reply, err
	}
	authority, err := journal.ParseAuthority(data)
	if err != nil {
		return reply, err
	}
	if reply.CA, reply.Cert, err = authority.Issue(ask.Request); err != nil {
		return reply, err
	}
	if err := n.journal.NoteCertificate(ctx, ask.Name, reply.Cert); err != nil {
		return reply, err
	}
	if reply.Revoked, err = n.journal.RevocationList(ctx, authority); err != nil {
		return reply, err
	}
	if n.members == nil {
		reply.Endpoints = n.self.Journal.Endpoints
	} else {
		if ask.Peer != "" {
			if reply.Initial, err = n.members.Admit(ctx, string(ask.Name), ask.Peer); err != nil {
				return reply, err
			}
		}
		states, err := n.members.List(ctx)
		if err != nil {
			return reply, err
		}
		for _, m := range states {
			if m.Voter && m.Client != "" {
				reply.Servers = append(reply.Servers, m.Client)
			}
		}
	}
	err = n.journal.AddDevice(ctx, device, ask.Disk)
	n.log.Info("node admitted", "name", ask.Name, "ssh", ask.SSH, "error", err)
	return reply, err
}

func tokenError(err error) string {
	if errors.Is(err, cluster.ErrUnavailable) {
		return "the journal does not answer: fewer than a majority of its voters are up"
	}
	return "the token is unknown, used or expired"
}

// proof binds what is said to the token's secret.
func proof(secret []byte, who string, parts ...[]byte) []byte {
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "git-cluster join %s\n", who)
	for _, p := range parts {
		fmt.Fprintf(mac, "%d\n", len(p)) // no two lists of parts read the same
		mac.Write(p)
	}
	return mac.Sum(nil)
}

func nonce() []byte {
	b := make([]byte, 32)
	rand.Read(b) // never fails (crypto/rand)
	return b
}

func send(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

func receive(r *bufio.Reader, v any) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, v)
}
