package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// A sample is what was measured of one thing.
type sample struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`  // the first quartile
	High   float64 `json:"high"` // the third
	N      int     `json:"n"`
	Unit   string  `json:"unit"`
}

func newSample(unit string, values ...float64) sample {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return sample{Unit: unit}
	}
	return sample{Median: quantile(v, 0.5), Low: quantile(v, 0.25), High: quantile(v, 0.75), N: len(v), Unit: unit}
}

// quantile interpolates in sorted values.
func quantile(v []float64, q float64) float64 {
	at := q * float64(len(v)-1)
	below := int(at)
	above := min(below+1, len(v)-1)
	return v[below] + (at-float64(below))*(v[above]-v[below])
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (s sample) String() string {
	text := strings.TrimSpace(number(s.Median) + " " + s.Unit)
	if s.N > 1 && number(s.Low) != number(s.High) {
		text += fmt.Sprintf(" (%s–%s)", number(s.Low), number(s.High))
	}
	return text
}

// number shows three digits that count.
func number(f float64) string {
	digits := 0
	if f != 0 {
		digits = max(0, min(3, 2-int(math.Floor(math.Log10(math.Abs(f))))))
	}
	return fmt.Sprintf("%.*f", digits, f)
}

// A contestant is one of the things that are compared.
type contestant struct {
	name string
	// run does it once and says how long it took; the time it takes to prepare that
	// need not count.
	run func(ctx context.Context) (time.Duration, error)
}

// alternate has all contestants run in turn, n times, so that whatever else the
// machine does meets them alike; each round begins with another. One more run of
// each comes before and does not count, unless one is all there is.
func alternate(ctx context.Context, n int, all ...contestant) (map[string]sample, error) {
	took := map[string][]float64{}
	first := 1
	if n == 1 {
		first = 0
	}
	for round := range n + first {
		for i := range all {
			c := all[(i+round)%len(all)]
			d, err := c.run(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if round >= first {
				took[c.name] = append(took[c.name], milliseconds(d))
			}
		}
	}
	samples := map[string]sample{}
	for name, values := range took {
		samples[name] = newSample("ms", values...)
	}
	return samples, nil
}

// await polls until check returns "".
func await(ctx context.Context, limit time.Duration, check func() (missing string)) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); ; {
		last := check()
		if last == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %v: %s", limit, last)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
