package journal

import (
	"context"
	"crypto/x509"
	"io/fs"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpctls "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// A guard looks at the list of revoked certificates with each call. Etcd does so
// with each connection, and a node that was removed while it ran has some that are open.
type guard struct {
	path string // of the list

	mu      sync.Mutex
	seen    fs.FileInfo
	revoked map[string]bool // by serial number
}

func (g *guard) options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(g.call), grpc.ChainStreamInterceptor(g.stream)}
}

func (g *guard) call(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := g.check(ctx); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (g *guard) stream(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := g.check(s.Context()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(s.Context())
	defer cancel(nil)
	err := handler(srv, &guardedStream{s, g, ctx, cancel})
	if cause := context.Cause(ctx); status.Code(cause) == codes.PermissionDenied {
		return cause
	}
	return err
}

// A guardedStream ends when its certificate has been revoked and something is to be
// sent or has come.
type guardedStream struct {
	grpc.ServerStream
	guard *guard
	ctx   context.Context
	end   context.CancelCauseFunc
}

func (s *guardedStream) Context() context.Context { return s.ctx }

func (s *guardedStream) SendMsg(m any) error {
	if err := s.guard.check(s.ctx); err != nil {
		s.end(err)
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (s *guardedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	err := s.guard.check(s.ctx)
	if err != nil {
		s.end(err)
	}
	return err
}

// check returns an error if the certificate of the connection counts no more.
func (g *guard) check(ctx context.Context) error {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return errNoCertificate
	}
	info, ok := p.AuthInfo.(grpctls.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return errNoCertificate
	}
	revoked, err := g.list()
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	if revoked[string(info.State.PeerCertificates[0].SerialNumber.Bytes())] {
		return status.Error(codes.PermissionDenied, "the certificate has been revoked")
	}
	return nil
}

var errNoCertificate = status.Error(codes.PermissionDenied, "no certificate")

// list returns what the file lists, which is read when it is another.
func (g *guard) list() (map[string]bool, error) {
	now, err := os.Stat(g.path)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen != nil && os.SameFile(g.seen, now) && g.seen.ModTime().Equal(now.ModTime()) {
		return g.revoked, nil
	}
	data, err := os.ReadFile(g.path)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseRevocationList(data)
	if err != nil {
		return nil, err
	}
	g.seen, g.revoked = now, make(map[string]bool, len(parsed.RevokedCertificateEntries))
	for _, e := range parsed.RevokedCertificateEntries {
		g.revoked[string(e.SerialNumber.Bytes())] = true
	}
	return g.revoked, nil
}
