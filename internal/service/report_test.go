package service

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"
)

// TestReportIsHeldBack writes what receive-pack says, byte by byte and at once: while
// a decision may not have been heard, only what is for a person comes through.
func TestReportIsHeldBack(t *testing.T) {
	const (
		talk   = "0009\x02busy"
		alive  = "0005\x01"
		result = "000a\x01ng ab"
		end    = "0000"
	)
	for _, step := range []int{1, 3, 1000} {
		ctx, cancel := context.WithCancelCause(t.Context())
		var got bytes.Buffer
		r := &report{ctx: ctx, w: &got}
		write := func(text string) (err error) {
			for b := []byte(text); len(b) > 0 && err == nil; b = b[min(step, len(b)):] {
				_, err = r.Write(b[:min(step, len(b))])
			}
			return err
		}
		if err := write(result + end + talk + alive); err != nil || got.String() != result+end+talk+alive {
			t.Errorf("%d at a time, nothing held: %q, %v", step, got.String(), err)
		}
		got.Reset()
		release := r.hold()
		if err := write(talk + alive + talk); err != nil || got.String() != talk+alive+talk {
			t.Errorf("%d at a time, held: %q, %v", step, got.String(), err)
		}
		time.AfterFunc(10*time.Millisecond, release)
		if err := write(result + end); err != nil || got.String() != talk+alive+talk+result+end {
			t.Errorf("%d at a time, released: %q, %v", step, got.String(), err)
		}
		got.Reset()
		gone := errors.New("gone")
		r.hold()
		time.AfterFunc(10*time.Millisecond, func() { cancel(gone) })
		if err := write(result + end); !errors.Is(err, gone) || got.Len() > 0 {
			t.Errorf("%d at a time, ended: %q, %v", step, got.String(), err)
		}
	}
}
