package service

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/queue"
)

// However many strangers hold places, somebody who signed in has one.
func TestStrangersLeaveRoom(t *testing.T) {
	s := New(Options{Turns: queue.New(8, 100)})
	stranger := func(network byte) Request {
		return Request{Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, network, 1}), 1)}
	}
	var leave []func()
	for network := range byte(4) {
		out, err := s.turn(t.Context(), stranger(network), false)
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.turn(ctx, stranger(9), false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a fifth stranger of eight places: %v", err)
	}
	for range 4 {
		if _, err := s.turn(t.Context(), Request{Identity: cluster.Identity{User: "alice"}}, false); err != nil {
			t.Fatal(err)
		}
	}
	leave[0]()
	if out, err := s.turn(t.Context(), stranger(9), false); err != nil {
		t.Error(err)
	} else {
		out()
	}
	if taken, waiting := s.Turns.Load(); taken != 7 || waiting != 0 {
		t.Errorf("%d places taken, %d waiting", taken, waiting)
	}
}
