package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"gitcluster/internal/cluster"
)

// MemberConfig describes this node's embedded etcd server.
type MemberConfig struct {
	Name      string
	Dir       string   // its data
	TLS       string   // the folder of [Certificates.Save]
	Peer      string   // host:port it listens on for the other servers
	Client    string   // host:port it listens on for clients
	Cluster   string   // the cluster's id, so that servers of two clusters never talk
	Initial   string   // "name=https://host:port,…" of all members at its first start
	Existing  bool     // it does not make the cluster
	Servers   []string // servers of that cluster, which are asked for its members then
	Advertise string   // host others reach it by, if not that of Peer and Client
	Log       string   // file for etcd's own log
	Quota     int64    // bytes its database may have; 0: what is usual
}

// A Member is a running embedded etcd server.
type Member struct {
	etcd    *embed.Etcd
	log     *zap.Logger
	closing sync.Once
	ended   chan struct{}
}

// StartMember starts the server and returns when it listens; it may not have
// found its leader yet.
func StartMember(ctx context.Context, c MemberConfig) (*Member, error) {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = c.Name, c.Dir
	peer, client := address(c.Peer), address(c.Client)
	cfg.ListenPeerUrls, cfg.ListenClientUrls = []url.URL{peer}, []url.URL{client}
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = []url.URL{advertised(peer, c.Advertise)}, []url.URL{advertised(client, c.Advertise)}
	cfg.InitialCluster, cfg.InitialClusterToken = c.Initial, c.Cluster
	if c.Initial == "" {
		cfg.InitialCluster = c.Name + "=" + cfg.AdvertisePeerUrls[0].String()
	}
	if c.Existing {
		cfg.ClusterState = embed.ClusterStateFlagExisting
	}
	f := filesIn(c.TLS)
	if err := ensureRevoked(f.revoked); err != nil {
		return nil, err
	}
	tls := transport.TLSInfo{CertFile: f.cert, KeyFile: f.key, ClientCertFile: f.cert, ClientKeyFile: f.key, TrustedCAFile: f.ca, ClientCertAuth: true,
		CRLFile: f.revoked, // read anew with each connection
		// A certificate of the cluster's own authority is what admits. That the
		// address a connection comes from is also in it would shut out machines
		// with several addresses or behind a translation.
		SkipClientSANVerify: true}
	cfg.PeerTLSInfo, cfg.ClientTLSInfo = tls, tls
	cfg.GRPCAdditionalServerOptions = (&guard{path: f.revoked}).options()
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, "10m"
	cfg.QuotaBackendBytes = cmp.Or(c.Quota, quota)
	cfg.MaxLearners = 8
	// What an idle node does is mostly to wake up. With as many heartbeats as etcd wants
	// at least, a dead leader is noticed as soon; and what is acknowledged is in the log
	// long before the database is written.
	cfg.TickMs = cfg.ElectionMs / 5
	cfg.BackendBatchInterval = time.Second
	cfg.EnableGRPCGateway = false
	logger, err := fileLogger(c.Log)
	if err != nil {
		return nil, err
	}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger)
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	server, err := c.start(ctx, cfg)
	switch {
	case errors.Is(err, ErrNotMember), errors.Is(err, ErrLost):
		return nil, err
	case err != nil:
		return nil, cluster.WithHint(fmt.Errorf("start the journal's server: %w", err), "its log is "+c.Log)
	}
	m := &Member{etcd: server, log: logger, ended: make(chan struct{})}
	go func() {
		for range server.Err() { // the server waits for a reader; what it says is in its log
		}
	}()
	if err := ctx.Err(); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// closePatience bounds Close: a leader whose followers stop at the same moment
// would look for a successor for seven seconds.
const closePatience = 2 * time.Second

// Close stops the server. What it has answered is on disk already, so one that
// does not end in time may be left to the end of the process.
func (m *Member) Close() { m.close(closePatience) }

// close is Close with another bound. It reports whether the server has ended.
func (m *Member) close(patience time.Duration) bool {
	m.closing.Do(func() {
		go func() {
			m.etcd.Close()
			close(m.ended)
		}()
	})
	t := time.NewTimer(patience)
	defer t.Stop()
	defer m.log.Sync() // a log that cannot be flushed at the end is not worth an error
	select {
	case <-m.ended:
		return true
	case <-t.C:
		return false
	}
}

func (m *Member) id() uint64 { return uint64(m.etcd.Server.MemberID()) }

func (m *Member) leads() bool {
	return !m.stopped() && m.etcd.Server.Leader() == m.etcd.Server.MemberID()
}

// stopped reports whether the server has stopped by itself: the others have taken
// it out.
func (m *Member) stopped() bool {
	select {
	case <-m.etcd.Server.StopNotify():
		return true
	default:
		return false
	}
}

// voters returns the client addresses of the voting members as this server
// knows them: its own, if it votes, and those of the others. A server that has
// stopped, because the others have taken it out, may not know that, and answers nothing.
func (m *Member) voters() (own, others []string) {
	server := m.etcd.Server
	for _, member := range server.Cluster().Members() {
		switch {
		case member.IsLearner:
		case member.ID != server.MemberID():
			others = append(others, member.ClientURLs...)
		case !m.stopped():
			own = slices.Clone(member.ClientURLs)
		}
	}
	slices.Sort(others)
	return own, others
}

// known returns all members as this server knows them.
func (m *Member) known() []MemberState {
	var all []MemberState
	for _, member := range m.etcd.Server.Cluster().Members() {
		s := MemberState{Name: member.Name, Voter: !member.IsLearner, Leader: member.ID == m.etcd.Server.Leader()}
		if len(member.ClientURLs) > 0 {
			s.Client = strings.TrimPrefix(member.ClientURLs[0], "https://")
		}
		all = append(all, s)
	}
	return all
}

// A Client is a connection to the journal's servers. It has its name here so
// that no other package needs to know whose it is.
type Client = clientv3.Client

// Dial returns a client of the servers at endpoints ("host:port"), with the
// credentials in tlsDir, or without TLS if tlsDir is "". It does not wait for a
// connection.
func Dial(endpoints []string, tlsDir string) (*Client, error) {
	cfg := clientv3.Config{
		Endpoints:            urls(endpoints, tlsDir != ""),
		DialTimeout:          callTimeout,
		DialKeepAliveTime:    5 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		Logger:               zap.NewNop(),
		// A server that comes back is found again within a second.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}), grpc.WithIdleTimeout(0)},
	}
	if tlsDir != "" {
		var err error
		if cfg.TLS, err = clientTLS(tlsDir); err != nil {
			return nil, err
		}
	}
	client, err := clientv3.New(cfg)
	if err == nil {
		// The connection is made ready now and never idles, because making it
		// ready reads the endpoints without a lock that a change of them holds.
		client.ActiveConnection().Connect()
	}
	return client, err
}

func urls(endpoints []string, secure bool) []string {
	scheme := "http://"
	if secure {
		scheme = "https://"
	}
	all := make([]string, len(endpoints))
	for i, e := range endpoints {
		all[i] = e
		if !strings.Contains(e, "://") {
			all[i] = scheme + e
		}
	}
	return all
}

// Address is where the server's clients reach it, host:port.
func (c MemberConfig) Address() string {
	u := advertised(address(c.Client), c.Advertise)
	return u.Host
}

func address(hostport string) url.URL { return url.URL{Scheme: "https", Host: hostport} }

func advertised(u url.URL, host string) url.URL {
	if host != "" {
		u.Host = joinHost(host, u.Port())
	}
	return u
}

func joinHost(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}

// lastWords ends the program when the journal's server gives up: it does so by a
// panic, whose trace helps nobody who runs a node.
type lastWords string

func (w lastWords) OnWrite(entry *zapcore.CheckedEntry, _ []zapcore.Field) {
	fmt.Fprintf(os.Stderr, "git-cluster: the journal's server gave up: %s\n", firstLine(entry.Message))
	hint := "its log is " + string(w)
	if strings.Contains(entry.Message, "out of range") {
		hint = "this node's journal is older than what the node has confirmed to the others: it is a copy or was restored; remove journal/member from the data directory, and the node's server begins anew by itself (log: " + string(w) + ")"
	}
	fmt.Fprintln(os.Stderr, "hint:", hint)
	os.Exit(1)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func fileLogger(path string) (*zap.Logger, error) {
	if path == "" {
		return zap.NewNop(), nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	cfg := zap.NewProductionConfig()
	cfg.Level = zap.NewAtomicLevelAt(zap.WarnLevel)
	cfg.OutputPaths, cfg.ErrorOutputPaths = []string{path}, []string{path}
	logger, err := cfg.Build(zap.WithPanicHook(lastWords(path)), zap.WithFatalHook(lastWords(path)))
	if err != nil {
		return nil, errors.Join(errors.New("open the journal's log"), err)
	}
	return logger, nil
}
