package service

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"strings"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/pktline"
	"gitcluster/internal/procreceive"
	"gitcluster/internal/receivepack"
	"gitcluster/internal/repository"
	"gitcluster/internal/version"
)

// converse serves a push from its listing to its report. The usual one is served here,
// with Git's processes for its objects alone; whatever is unusual is Git's own
// receive-pack's.
func (p *push) converse(ctx context.Context, q Request) error {
	seed := ""
	if !q.Stateless {
		// Over HTTP the nonce would have to be known to whichever node gets the
		// next request.
		seed = rand.Text()
		if err := p.service.advertise(ctx, q, &p.repo, nonce(p.repo.Format, seed, p.dir, time.Now())); err != nil {
			return err
		}
	}
	in := bufio.NewReaderSize(q.Stdin, pktline.Max)
	asked, err := receivepack.Read(in, p.repo.Format)
	switch {
	case err != nil:
		return err
	case asked.Odd:
		q.Stdin = io.MultiReader(bytes.NewReader(asked.Said), in)
		return p.handOver(ctx, q, seed)
	case len(asked.Updates) == 0:
		return nil // it has seen that there is nothing to do
	}
	band := receivepack.NewBand(q.Stdout)
	defer band.Close()
	results, unpack, err := p.take(ctx, asked, in, band)
	if err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return band.Report(unpack, results)
}

// take stores what comes with a push and decides it. unpack says what is wrong with the
// pack, if anything is. An error means that there is no answer to give.
func (p *push) take(ctx context.Context, asked *receivepack.Request, in *bufio.Reader, band *receivepack.Band) (results []cluster.RefResult, unpack string, err error) {
	quarantine := ""
	if asked.HasPack() {
		p.incoming, err = p.service.Engine.Receive(ctx, p.repo, in, !asked.Quiet, band)
		switch {
		case errors.Is(err, repository.ErrUnpack):
			p.service.Log.Info("a pack that cannot be stored", "repo", p.repo.Name, "identity", p.actor.String(), "error", err)
			return answer(asked.Updates, nil, "unpacker error", nil), "index-pack abnormal exit", nil
		case err != nil:
			return nil, "", err
		}
		incoming := p.incoming
		defer incoming.Remove()
		quarantine = incoming.Quarantine()
	}
	band.Received()
	p.judge(ctx, asked.Updates, quarantine)
	request := procreceive.Request{Updates: asked.Updates, Options: asked.Options, Atomic: asked.Atomic}
	results, err = p.settle(ctx, request, band)
	if !errors.Is(err, engine.ErrIncomplete) {
		return results, "", err
	}
	// Some refs lack objects. The others of the push may have all of theirs.
	missing, incoming := map[cluster.RefName]string{}, p.incoming
	var whole []cluster.RefUpdate
	for _, u := range asked.Updates {
		if ok, err := p.service.Engine.Whole(ctx, p.repo.ID, incoming, u); err != nil {
			return nil, "", err
		} else if ok {
			whole = append(whole, u)
		} else {
			missing[u.Ref] = engine.ErrIncomplete.Error()
		}
	}
	if len(whole) > 0 {
		if err := incoming.Admit(); err != nil {
			return nil, "", err
		}
		p.incoming, p.decided = nil, false
		request.Updates = whole
		if results, err = p.settle(ctx, request, band); err != nil {
			return nil, "", err
		}
	}
	return answer(asked.Updates, missing, "", results), "", nil
}

// settle decides a push, and tells who waits how that goes.
func (p *push) settle(ctx context.Context, request procreceive.Request, band *receivepack.Band) ([]cluster.RefResult, error) {
	defer reassure(band)()
	return p.decide(ctx, request, func(line string) { fmt.Fprintf(band, "# %s\n", line) })
}

// handOver has Git's own receive-pack serve a push whose listing was given already.
func (p *push) handOver(ctx context.Context, q Request, seed string) error {
	s := p.service
	p.report = &report{ctx: ctx, w: q.Stdout}
	token := rand.Text()
	s.mu.Lock()
	s.pushes[token] = p
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.pushes, token)
		s.mu.Unlock()
	}()
	c := gitcmd.ReceivePack(p.dir, gitcmd.Push{Hooks: filepath.Join(s.Hooks, hooksOfPush), Socket: s.Socket, Token: token, CertSeed: seed})
	return s.Run.Run(ctx, c, gitexec.IO{Stdin: q.Stdin, Stdout: p.report, Stderr: q.Stderr})
}

// advertise lists the refs from which a push may start. repo is nil for one that the push
// is to create.
func (s *Service) advertise(ctx context.Context, q Request, repo *cluster.Repo, nonce string) error {
	offers := receivepack.Offers{Format: cluster.SHA1, Nonce: nonce, Agent: "git-cluster/" + version.String()}
	if strings.Contains(":"+q.Protocol+":", ":version=1:") {
		offers.Version = 1
	}
	refs := repository.NewRefTable().Decided()
	if repo != nil {
		offers.Format = repo.Format
		var err error
		if refs, err = s.Engine.Decided(ctx, repo.ID); err != nil {
			return err
		}
	}
	return receivepack.Advertise(q.Stdout, offers, refs)
}

// nonce is what a client that signs its push has to sign, too: what Git's receive-pack
// makes of the seed for a repository at a time, and so knows again.
func nonce(format cluster.ObjectFormat, seed, dir string, at time.Time) string {
	kind := func() hash.Hash { return sha1.New() }
	if format == cluster.SHA256 {
		kind = sha256.New
	}
	// Git has the seed as the text and the rest as the key.
	mac := hmac.New(kind, fmt.Appendf(nil, "%s:%d", dir, at.Unix()))
	io.WriteString(mac, seed)
	return fmt.Sprintf("%d-%x", at.Unix(), mac.Sum(nil))
}
