package sshserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"

	"gitcluster/internal/cluster"
)

// JoinUser is the login name of a machine that wants to become a node.
const JoinUser = "join"

// JoinCommand is the one command that login name may run.
const JoinCommand = "cluster-join"

// A login is what a connection's final, verified key gave it.
type login struct {
	identity cluster.Identity
	joining  bool
	key      ssh.PublicKey
}

// loginData is the key of the login in ssh.Permissions.ExtraData.
type loginData struct{}

// algorithms leaves out everything old. Within it, the client's order decides.
// OpenSSH up to 9.8 has no mlkem768x25519 and takes curve25519, a tenth of the
// CPU of its own first choice; newer ones get the hybrid they would warn about
// missing.
func algorithms() ssh.Config {
	config := ssh.Config{
		KeyExchanges: []string{
			ssh.KeyExchangeCurve25519, ssh.KeyExchangeMLKEM768X25519,
			ssh.KeyExchangeECDHP256, ssh.KeyExchangeECDHP384,
		},
		Ciphers: []string{
			ssh.CipherAES128GCM, ssh.CipherAES256GCM,
			ssh.CipherAES128CTR, ssh.CipherAES256CTR, // older clients have no GCM
		},
		MACs: []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM, ssh.HMACSHA256},
	}
	if !cpu.X86.HasAES && !cpu.ARM64.HasAES {
		// OpenSSH's first choice, and half as fast as AES where that is in
		// hardware: offered only where it is not.
		config.Ciphers = append(config.Ciphers, ssh.CipherChaCha20Poly1305)
	}
	return config
}

// authenticate runs the handshake of one connection within the time its
// deadline leaves, and returns what the client proved to be.
func (s *Server) authenticate(ctx context.Context, nc net.Conn, remote netip.AddrPort) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, login, error) {
	var refusals []string
	config := &ssh.ServerConfig{
		Config:        algorithms(),
		ServerVersion: greeting(s.opts.Version),
		MaxAuthTries:  s.limits.AuthTries,
		PublicKeyAuthAlgorithms: []string{
			ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
			ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
			ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512, // not ssh-rsa: SHA-1
		},
		PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			who, err := s.loginBy(ctx, meta.User(), key, remote)
			if err != nil {
				refusals = append(refusals, err.Error())
				return nil, errRefused
			}
			// The library asks for keys that a client merely mentions, too. Only
			// the Permissions of the key that signed come out of the handshake,
			// so the login travels in them and nowhere else (CVE-2024-45337).
			return &ssh.Permissions{ExtraData: map[any]any{loginData{}: who}}, nil
		},
	}
	config.AddHostKey(s.opts.HostKey)
	sc, chans, reqs, err := ssh.NewServerConn(nc, config)
	if err != nil {
		if len(refusals) > 0 {
			err = fmt.Errorf("%w: %s", errRefused, strings.Join(refusals, "; "))
		}
		return nil, nil, nil, login{}, err
	}
	who, ok := sc.Permissions.ExtraData[loginData{}].(login)
	if !ok {
		sc.Close()
		return nil, nil, nil, login{}, errors.New("the handshake gave no login")
	}
	return sc, chans, reqs, who, nil
}

// errRefused is all the protocol library learns, so that it cannot leak more.
var errRefused = errors.New("no offered key was accepted")

// loginBy says what a key is worth, should the client prove to hold it.
func (s *Server) loginBy(ctx context.Context, user string, key ssh.PublicKey, remote netip.AddrPort) (login, error) {
	if _, ok := key.(*ssh.Certificate); ok {
		// Nobody here checks who issued a certificate, or until when.
		return login{}, errors.New("the client offered a certificate")
	}
	if user == JoinUser {
		if s.opts.JoinHandler == nil {
			return login{}, fmt.Errorf("the login name %q is not served", JoinUser)
		}
		return login{joining: true, key: key}, nil
	}
	id, err := s.opts.Authenticate(ctx, user, key, remote)
	if err != nil {
		return login{}, err
	}
	if id.User == "" && id.Device == "" || id.Operator {
		return login{}, fmt.Errorf("the key gave the identity %q, which no key can have", id)
	}
	return login{identity: id, key: key}, nil
}
