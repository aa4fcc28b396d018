// Command bench measures a cluster of this checkout beside what people use today: an
// OpenSSH server on the same machine, reached by a new connection each time (cold) or
// by one that is kept (warm, ssh's ControlMaster), and Git on plain files.
//
//	bench/run                 everything, in about half an hour
//	bench/run --quick         the same with small repositories, in about two minutes
//	bench/run --rows push     the rows whose name matches
//
// It starts what it compares, has all take turns, prints a table of medians with
// their ratios, and leaves that as JSON, Markdown and a plot in bench/out. A target
// that is missed is no failure; the exit status is 1 only where something broke.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"gitcluster/internal/clustertest"
)

// reapArg as the first argument has this program be the parent of a server instead.
const reapArg = "reap"

func main() {
	if len(os.Args) > 2 && os.Args[1] == reapArg {
		if err := reap(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	quick := flag.Bool("quick", false, "small repositories and few repetitions")
	smoke := flag.Bool("smoke", false, "tiny ones, to see that everything still runs")
	out := flag.String("out", "", "folder for the results, and for the repositories that are made once (default bench/out)")
	rows := flag.String("rows", "", "measure only the rows whose name matches this regular expression")
	soak := flag.Float64("soak", 0, "keep the cluster busy for so many minutes and see whether its memory grows")
	before := flag.String("before", "", "JSON file of an earlier run, whose numbers the table shows, too")
	list := flag.Bool("list", false, "print the names of the rows and end")
	flag.Parse()
	if *list {
		for _, r := range allRows {
			fmt.Println(r.name)
		}
		return
	}
	chosen, err := regexp.Compile(*rows)
	if err != nil || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: bench/run [--quick | --smoke] [--rows REGEXP] [--soak MINUTES] [--before FILE] [--out DIR]")
		os.Exit(2)
	}
	s := full
	switch {
	case *smoke:
		s = tiny
	case *quick:
		s = small
	}
	s.Soak = time.Duration(*soak * float64(time.Minute))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r := &report{Mode: s.Name, Date: time.Now()}
	if *before != "" {
		if err := r.compareWith(*before); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
	}
	if err := measure(ctx, s, r, chosen, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// measure makes a run and prints what came of it.
func measure(ctx context.Context, s scale, r *report, chosen *regexp.Regexp, out string) (err error) {
	root, err := clustertest.ModuleRoot()
	if err != nil {
		return err
	}
	if out, err = filepath.Abs(cmp.Or(out, filepath.Join(root, "bench", "out"))); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	b := &bench{scale: s, report: r}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.open(ctx, root, filepath.Join(out, "cache")); err != nil {
		return err
	}
	for _, row := range allRows {
		if !chosen.MatchString(row.name) {
			continue
		}
		b.progress(row.name)
		if err := row.measure(ctx, b); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			r.broken(row.name, err)
		}
	}
	r.Took = time.Since(r.Date).Round(time.Second).String()
	r.Machine.LoadAfter = load()
	path, err := r.write(out)
	if err != nil {
		return err
	}
	r.table(os.Stdout)
	fmt.Printf("\n%s, and beside it .md and .svg\n", path)
	if n := len(r.Broken); n > 0 {
		return fmt.Errorf("%d rows broke", n)
	}
	return nil
}
