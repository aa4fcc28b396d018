package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"gitcluster/internal/config"
	"gitcluster/internal/credential"
	"gitcluster/internal/replica"
	"gitcluster/internal/sshclient"
)

// identify says who to connect as: the device, if the environment asks for it,
// by the handle that git-credential-device would give Git. It is asked in this
// process, because Git's own `credential fill` drops the attributes that matter
// here. Whatever is wrong with the device's identity is wrong for every replica.
func identify(ctx context.Context, candidate replica.Candidate, getenv func(string) string, o *sshclient.Options) error {
	if !credential.AsDevice(getenv) {
		return nil
	}
	user := candidate.User
	if user == config.DefaultUser {
		user = ""
	}
	if user != "" {
		if err := credential.Conflict(getenv, fmt.Sprintf("the user %q of the address", user)); err != nil {
			return &finalError{err}
		}
	}
	h := &credential.Helper{Getenv: getenv, Environ: gitEnvironment(getenv), Now: time.Now}
	answer, err := h.Answer(ctx, credential.Request{Protocol: "ssh", Host: candidate.Addr})
	if err == nil && len(answer) == 0 && candidate.Learned() && o.HostKey != nil {
		answer, err = h.Vouched(candidate.Cluster, candidate.Vouchers)
	}
	if err != nil {
		return &finalError{err}
	}
	if len(answer) == 0 {
		if _, err := credential.Load(credential.Dir(getenv)); errors.Is(err, credential.ErrNoDevice) {
			return &finalError{err}
		}
		return &finalError{fmt.Errorf("%s is set, but this device's identity is not for %s", credential.EnvAsDevice, candidate.Addr)}
	}
	var socket, fingerprint string
	for _, a := range answer {
		switch a.Key {
		case "username":
			o.User = a.Value
		case "identityfile":
			o.IdentityFile = a.Value
		case "identityagent":
			socket = a.Value
		case "fingerprint":
			fingerprint = a.Value
		}
	}
	if socket == "" {
		return nil
	}
	signer, err := agentSigner(ctx, socket, fingerprint)
	if err != nil {
		return &finalError{err}
	}
	o.Signers, o.IdentityFile = []ssh.Signer{signer}, ""
	return nil
}

// gitEnvironment is what Git needs to find this account's configuration, in
// which `git-credential-device configure` notes hosts.
func gitEnvironment(getenv func(string) string) (env []string) {
	for _, name := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL"} {
		if value := getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// agentSigner is the one key of an agent that is the device's. The connection to the
// agent lasts as long as the program.
func agentSigner(ctx context.Context, socket, fingerprint string) (ssh.Signer, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("the device's agent: %w", err)
	}
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		return nil, fmt.Errorf("the device's agent: %w", err)
	}
	for _, s := range signers {
		if ssh.FingerprintSHA256(s.PublicKey()) == fingerprint {
			return s, nil
		}
	}
	return nil, errors.New("the device's agent does not hold its key " + fingerprint)
}
