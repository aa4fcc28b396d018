package procreceive

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// TestListen holds that the commands of a push are known before receive-pack can have
// read them all, however the bytes come.
func TestListen(t *testing.T) {
	command := zero + " " + one + " refs/heads/a"
	for name, c := range map[string]struct {
		in      string
		want    Commands
		unheard bool
	}{
		"one":                        {in: packets(command+"\x00report-status atomic", "") + "PACK", want: Commands{Count: 1}},
		"three":                      {in: packets(command+"\x00", command, command, "") + "PACK", want: Commands{Count: 3}},
		"none":                       {in: packets("")},
		"shallow lines":              {in: packets("shallow "+one, "shallow "+zero, command, ""), want: Commands{Count: 1}},
		"signed":                     {in: packets("push-cert\x00 push-cert", "certificate version 0.1"), want: Commands{Certificate: true}},
		"signed, after a command":    {in: packets(command, "push-cert\n"), want: Commands{Count: 1, Certificate: true}},
		"signed, after a shallow":    {in: packets("shallow "+one, "push-cert\x00"), want: Commands{Certificate: true}},
		"short lines":                {in: packets("a", "b", ""), want: Commands{Count: 2}},
		"an empty line":              {in: "0004" + packets(""), want: Commands{Count: 1}},
		"no packet":                  {in: "PACK", want: Commands{Certificate: true}},
		"a delimiter":                {in: packets(command) + "0001", want: Commands{Count: 1, Certificate: true}},
		"a packet that is too long":  {in: "ffff", want: Commands{Certificate: true}},
		"an end in the midst of one": {in: packets(command)[:20], unheard: true},
		"an end before the flush":    {in: packets(command), unheard: true},
	} {
		for way, r := range map[string]io.Reader{"at once": strings.NewReader(c.in), "by bytes": iotest.OneByteReader(strings.NewReader(c.in)),
			"with the end": iotest.DataErrReader(strings.NewReader(c.in))} {
			calls, got := 0, Commands{}
			out, err := io.ReadAll(Listen(r, func(found Commands) error { calls, got = calls+1, found; return nil }))
			if err != nil || string(out) != c.in {
				t.Errorf("%s, %s: passes on %q, %v", name, way, out, err)
			}
			if c.unheard != (calls == 0) || calls > 1 || got != c.want {
				t.Errorf("%s, %s: %d calls, %+v, want %+v", name, way, calls, got, c.want)
			}
		}
	}
	// What ends the push comes before the byte by which Git would know the last command.
	refused := errors.New("no")
	in := packets(command, "")
	r := Listen(iotest.OneByteReader(strings.NewReader(in)), func(Commands) error { return refused })
	if out, err := io.ReadAll(r); !errors.Is(err, refused) || string(out) != in[:len(in)-1] {
		t.Errorf("it passes on %q, %v; want all but the last byte, and the refusal", out, err)
	}
	if n, err := r.Read(make([]byte, 10)); n != 0 || !errors.Is(err, refused) {
		t.Errorf("then %d bytes, %v", n, err)
	}
}
