package cluster

import (
	"crypto/sha256"
	"crypto/sha3"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// A Digest is a hash of a set of (ref, value) pairs that does not depend on
// their order and that one changed ref changes in constant time. Each pair is
// expanded by SHAKE-256 to 2048 bits and the expansions are added and
// subtracted modulo 2^2048 in 64-bit words (an additive set hash in the manner
// of Bellare and Micciancio, "A New Paradigm for Collision-Free Hashing", 1997,
// made wide enough that the generalized birthday attack is out of reach).
//
// The zero Digest is that of the empty set.
type Digest struct{ words [32]uint64 }

// Add puts the pair into the set. It must not be in it already.
func (d *Digest) Add(name, value string) {
	for i, w := range expand(name, value) {
		d.words[i] += w
	}
}

// Remove takes the pair out of the set. It must be in it.
func (d *Digest) Remove(name, value string) {
	for i, w := range expand(name, value) {
		d.words[i] -= w
	}
}

// Apply changes the set by ref updates whose old values are those in the set,
// and by a change of HEAD from oldHead to newHead where they differ.
func (d *Digest) Apply(updates []RefUpdate) {
	for _, u := range updates {
		if !u.Old.IsZero() {
			d.Remove(string(u.Ref), string(u.Old))
		}
		if !u.New.IsZero() {
			d.Add(string(u.Ref), string(u.New))
		}
	}
}

// MoveHead replaces HEAD's target in the set. An empty old target means that
// the set holds no HEAD yet.
func (d *Digest) MoveHead(from, to RefName) {
	if from != "" {
		d.Remove(Head, "ref: "+string(from))
	}
	if to != "" {
		d.Add(Head, "ref: "+string(to))
	}
}

// String is a short form for people: the start of the digest's SHA-256.
func (d Digest) String() string {
	sum := sha256.Sum256(d.bytes())
	return hex.EncodeToString(sum[:6])
}

// MarshalText gives the whole digest in base64; the empty set is "".
func (d Digest) MarshalText() ([]byte, error) {
	if d == (Digest{}) {
		return []byte{}, nil
	}
	return base64.RawStdEncoding.AppendEncode(nil, d.bytes()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (d *Digest) UnmarshalText(text []byte) error {
	*d = Digest{}
	if len(text) == 0 {
		return nil
	}
	raw, err := base64.RawStdEncoding.AppendDecode(nil, text)
	if err != nil || len(raw) != 8*len(d.words) {
		return fmt.Errorf("bad digest of %d characters", len(text))
	}
	for i := range d.words {
		d.words[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	return nil
}

func (d Digest) bytes() []byte {
	raw := make([]byte, 0, 8*len(d.words))
	for _, w := range d.words {
		raw = binary.LittleEndian.AppendUint64(raw, w)
	}
	return raw
}

func expand(name, value string) (words [32]uint64) {
	h := sha3.NewSHAKE256()
	// Neither part can hold a NUL byte, so the encoding is unambiguous.
	h.Write([]byte(name))
	h.Write([]byte{0})
	h.Write([]byte(value))
	var raw [8 * len(words)]byte
	h.Read(raw[:])
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	return words
}
