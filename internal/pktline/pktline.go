// Package pktline reads and writes the packets that Git's protocols are made of
// (gitprotocol-common(5)).
//
// Entry points: [Read] and [Write]; [Cut] takes packets from what was read already;
// [OneLine] makes text fit for one.
//
// It promises never to read more than one packet holds, and to take nothing for a
// packet that is none.
package pktline

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	// Max is the length of the longest packet, its own four digits counted.
	Max = 65520
	// Flush is the packet that ends a list.
	Flush = "0000"
	// Digits is how many characters say how long a packet is.
	Digits = 4
)

// What the digits of a packet say that is nothing else than them.
const (
	FlushPacket = 0
	DelimPacket = 1
)

// ErrMalformed: what came is no packet.
var ErrMalformed = errors.New("malformed packet")

// Read reads one packet; nil stands for a flush packet. The line is the caller's, with
// the line feed if it has one. The end of the input is [io.EOF] between packets, and
// [io.ErrUnexpectedEOF] within one.
func Read(in *bufio.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, err
	}
	n, ok := Length(head[:])
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: length %q", ErrMalformed, head)
	case n == FlushPacket:
		return nil, nil
	case n < Digits:
		return nil, fmt.Errorf("%w: length %d", ErrMalformed, n)
	}
	line := make([]byte, n-Digits)
	if _, err := io.ReadFull(in, line); err == io.EOF {
		return nil, io.ErrUnexpectedEOF
	} else if err != nil {
		return nil, err
	}
	return line, nil
}

// Length reads a packet's digits, as Git does: its length, or what it is if it is nothing
// else than them. ok is false for what is neither.
func Length(digits []byte) (n int, ok bool) {
	v, err := strconv.ParseUint(string(digits), 16, 16)
	n = int(v)
	return n, err == nil && n != 3 && n <= Max
}

// PutLength writes the digits for a length in front of a packet.
func PutLength(packet []byte, n int) {
	for i := Digits - 1; i >= 0; i-- {
		packet[i] = "0123456789abcdef"[n&15]
		n >>= 4
	}
}

// Cut takes the first packet from what was read: its line, and n as [Length] returns it. ok
// is false if there is no whole packet.
func Cut(raw []byte) (line []byte, n int, rest []byte, ok bool) {
	if len(raw) < Digits {
		return nil, 0, raw, false
	}
	n, ok = Length(raw[:Digits])
	end := max(n, Digits)
	if !ok || len(raw) < end {
		return nil, n, raw, false
	}
	return raw[Digits:end], n, raw[end:], true
}

// Write writes a packet. The line must not be longer than a packet can hold.
func Write(w io.Writer, line string) error {
	_, err := fmt.Fprintf(w, "%04x%s", len(line)+4, line)
	return err
}

// OneLine makes text fit for one line of a report: without control characters, and not too
// long.
func OneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > 1000 {
		s = strings.ToValidUTF8(s[:1000], "")
	}
	return s
}
