package journal

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
	"gitcluster/internal/durable"
)

// Whoever has a certificate of the cluster's authority can read and write the
// journal, and it is good for twenty years. So the journal keeps which certificates a
// node was given, and those of a node that is removed are revoked. The servers look
// at the list of those, a file beside their own certificate, with each connection; every
// node keeps that file as the journal has it.

// An issued is the record of a certificate; its key says whose, and its serial number.
type issued struct {
	At time.Time `json:"at"` // when it was noted
}

// A revoked is the record of a certificate that counts no more; its key is the
// serial number.
type revoked struct {
	Device cluster.DeviceName `json:"device"`
	At     time.Time          `json:"at"`
}

const (
	// revocationLife is how long a list is good, by what it says. No server looks
	// at that: one that cannot get a newer list goes on with the one it has.
	revocationLife = 30 * 24 * time.Hour
	// revocationFresh is how old a list may become until it is signed anew.
	revocationFresh = 7 * 24 * time.Hour
)

// NoteCertificate records that a device has the certificate, so that it can be
// revoked with the device.
func (j *Journal) NoteCertificate(ctx context.Context, device cluster.DeviceName, certPEM []byte) error {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return errors.New("bad certificate: not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	key := fmt.Sprintf("%s%s/%x", keyCertificate, device, cert.SerialNumber)
	_, err = j.kv.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(clientv3.OpPut(key, encode(issued{At: time.Now().UTC()}))).Commit()
	return unavailable(err)
}

// NoteOwnCertificate is NoteCertificate for the one in this node's folder, which may
// have been issued before there were such records.
func (j *Journal) NoteOwnCertificate(ctx context.Context, device cluster.DeviceName, tlsDir string) error {
	data, err := os.ReadFile(filesIn(tlsDir).cert)
	if err != nil {
		return err
	}
	return j.NoteCertificate(ctx, device, data)
}

// revocation gives what revokes all certificates of a device, if no other has been
// noted meanwhile.
func (j *Journal) revocation(ctx context.Context, device cluster.DeviceName) (still clientv3.Cmp, ops []clientv3.Op, err error) {
	prefix := keyCertificate + string(device) + "/"
	list, err := j.list(ctx, prefix)
	if err != nil {
		return still, nil, err
	}
	record := encode(revoked{Device: device, At: time.Now().UTC()})
	for _, kv := range list.Kvs {
		ops = append(ops, clientv3.OpPut(keyRevoked+strings.TrimPrefix(string(kv.Key), prefix), record))
	}
	if len(ops) > 0 {
		ops = append(ops, clientv3.OpDelete(prefix, clientv3.WithPrefix()))
	}
	return clientv3.Compare(clientv3.ModRevision(prefix).WithPrefix(), "<", list.Header.Revision+1), ops, nil
}

// RevocationList returns the list of all certificates that count no more, signed by
// the authority.
func (j *Journal) RevocationList(ctx context.Context, a *Authority) ([]byte, error) {
	entries, _, err := j.revoked(ctx)
	if err != nil {
		return nil, err
	}
	return a.RevocationList(entries, time.Now())
}

func (j *Journal) revoked(ctx context.Context) (entries []x509.RevocationListEntry, rev int64, err error) {
	list, err := j.list(ctx, keyRevoked)
	if err != nil {
		return nil, 0, err
	}
	for _, kv := range list.Kvs {
		e, err := revokedEntry(kv)
		if err != nil {
			return nil, 0, err
		}
		entries = append(entries, e)
	}
	return entries, list.Header.Revision, nil
}

func revokedEntry(kv *mvccpb.KeyValue) (e x509.RevocationListEntry, err error) {
	var record revoked
	serial, ok := new(big.Int).SetString(strings.TrimPrefix(string(kv.Key), keyRevoked), 16)
	if err := json.Unmarshal(kv.Value, &record); err != nil || !ok {
		return e, fmt.Errorf("%s is no record of a revoked certificate", kv.Key)
	}
	return x509.RevocationListEntry{SerialNumber: serial, RevocationTime: record.At}, nil
}

// KeepRevoked keeps the list of revoked certificates in a node's folder as the
// journal has it, and signed not long ago, until the context ends.
func (j *Journal) KeepRevoked(ctx context.Context, tlsDir string, log *slog.Logger) {
	path, said := filesIn(tlsDir).revoked, ""
	for wait := time.Duration(0); pause(ctx, wait) == nil; {
		wait = time.Second
		rev, err := j.writeRevoked(ctx, path)
		if err != nil {
			if ctx.Err() == nil && err.Error() != said {
				said = err.Error()
				log.Warn("the list of revoked certificates", "error", err)
			}
			continue
		}
		said = ""
		// Now and then it is looked at without a reason, in which it is renewed.
		watch, cancel := context.WithTimeout(ctx, revocationFresh/7)
		j.awaitChange(watch, rev, func() { wait = 0 }, keyRevoked)
		cancel()
	}
}

// writeRevoked writes the list if the file holds another or was signed long ago.
func (j *Journal) writeRevoked(ctx context.Context, path string) (rev int64, err error) {
	entries, rev, err := j.revoked(ctx)
	if err != nil {
		return 0, err
	}
	key, err := j.AuthorityKey(ctx)
	if err != nil {
		return 0, err
	}
	authority, err := ParseAuthority(key)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	if authority.isCurrent(path, entries, now) {
		return rev, nil
	}
	data, err := authority.RevocationList(entries, now)
	if err != nil {
		return 0, err
	}
	return rev, durable.WriteFile(path, data, 0o644)
}

// isCurrent reports whether the file is this authority's list of exactly these
// certificates, signed not long ago.
func (a *Authority) isCurrent(path string, entries []x509.RevocationListEntry, now time.Time) bool {
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	list, err := x509.ParseRevocationList(data)
	if err != nil || !ecdsaVerifies(a, list) || now.After(list.NextUpdate.Add(revocationFresh-revocationLife)) || now.Before(list.ThisUpdate) {
		return false
	}
	return slices.EqualFunc(list.RevokedCertificateEntries, entries, func(x, y x509.RevocationListEntry) bool { return x.SerialNumber.Cmp(y.SerialNumber) == 0 })
}

// ecdsaVerifies reports whether the authority has signed the list, whatever its own
// certificate says it may sign.
func ecdsaVerifies(a *Authority, list *x509.RevocationList) bool {
	issuer := *a.cert
	issuer.KeyUsage |= x509.KeyUsageCRLSign
	return list.CheckSignatureFrom(&issuer) == nil
}

// ensureRevoked makes an empty list where there is none yet: without a file the
// servers would take no connection at all. Nobody can ask the journal before they
// do, so it is signed by a key that is thrown away, and soon replaced.
func ensureRevoked(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	issuer := certificate("nobody", x509.KeyUsageCRLSign)
	issuer.SubjectKeyId, issuer.PublicKey = []byte{0}, &key.PublicKey
	data, err := (&Authority{cert: issuer, key: key}).RevocationList(nil, time.Now())
	if err != nil {
		return err
	}
	return durable.WriteFile(path, data, 0o644)
}

// checkRevoked refuses certificates that the file lists. Where there is none, as
// beside the credentials for an etcd that is not ours, all count.
func checkRevoked(path string, certs []*x509.Certificate) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := x509.ParseRevocationList(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, cert := range certs {
		if slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(cert.SerialNumber) == 0 }) {
			return fmt.Errorf("the certificate %x has been revoked", cert.SerialNumber)
		}
	}
	return nil
}

// A Door is what a node that gets no answer from the journal knocks at, to find out
// whether the servers take its credentials any more.
type Door struct {
	last time.Time
	hits int
}

// Closed reports whether the servers have let nobody in with the credentials in
// tlsDir several times. They do not say so: one that finds a certificate revoked
// ends the connection before a word is said, and one that does not waits for the client
// to begin. A server that cannot be reached, or shows no certificate of the
// cluster's, says nothing either way.
func (d *Door) Closed(ctx context.Context, servers []string, tlsDir string) bool {
	const often, pause = 3, time.Second // one that is about to stop may end a connection, too
	if time.Since(d.last) < pause {
		return false
	}
	config, err := clientTLS(tlsDir)
	if err != nil {
		return false
	}
	var mu sync.Mutex
	taken, ended := 0, 0
	var wait sync.WaitGroup
	for _, server := range servers {
		wait.Go(func() {
			took, known := knock(ctx, strings.TrimPrefix(server, "https://"), config)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case known && took:
				taken++
			case known:
				ended++
			}
		})
	}
	wait.Wait()
	d.last = time.Now()
	if d.hits++; taken > 0 || ended == 0 {
		d.hits = 0
	}
	return d.hits >= often
}

// knock connects to a server and waits whether it ends that.
func knock(ctx context.Context, server string, config *tls.Config) (took, known bool) {
	const silence = time.Second // after which a connection has been taken
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", server)
	if err != nil {
		return false, false
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(silence))
	_, err = conn.Read(make([]byte, 1))
	switch {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
		return true, true
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return false, true
	}
	return false, false
}
