// Package pktline reads and writes the packets that Git's protocols are made of
// (gitprotocol-common(5)).
//
// Entry points: [Read] and [Write]; [OneLine] makes text fit for one.
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
	n, err := strconv.ParseUint(string(head[:]), 16, 16)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: length %q", ErrMalformed, head)
	case n == 0:
		return nil, nil
	case n < 4 || n > Max:
		return nil, fmt.Errorf("%w: length %d", ErrMalformed, n)
	}
	line := make([]byte, n-4)
	if _, err := io.ReadFull(in, line); err == io.EOF {
		return nil, io.ErrUnexpectedEOF
	} else if err != nil {
		return nil, err
	}
	return line, nil
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
