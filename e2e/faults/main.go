// Command faults proves the promises of a cluster under faults: real nodes, real
// Git, and clients on all of them, while processes are killed and stopped, links are
// cut, disks are full, wiped and restored from older copies, and nodes die in the
// middle of a commit.
//
//	go run ./e2e/faults --minutes 30 --seed 7
//
// It prints one line for each run and ends with 1 if anything was found. A seed
// always leads to the same plans of clients and faults; how they meet in time
// differs. The same run, shorter, is a test, and so is that it finds what is wrong
// with engines that are broken on purpose.
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"gitcluster/internal/clustertest"
)

func main() {
	s := Settings{Plan: usual}
	minutes := flag.Float64("minutes", 1, "how long clients work and faults happen, in each run")
	flag.Uint64Var(&s.Seed, "seed", uint64(time.Now().UnixNano())%1_000_000, "seed of the first run")
	runs := flag.Int("runs", 1, "how many runs, each with the next seed")
	flag.IntVar(&s.Clients, "clients", 5, "how many clients work at a time")
	flag.IntVar(&s.Repos, "repos", 2, "how many repositories they share")
	wrong := flag.String("break", "", fmt.Sprintf("break the engine on purpose: %v", slices.Sorted(maps.Keys(broken))))
	flag.IntVar(&s.Looks, "looks", usual.Looks, "of how many pushes in a hundred the disks are looked at in the moment of \"ok\"")
	flag.IntVar(&s.Upkeep, "upkeep", usual.Upkeep, "how many operations in a hundred gather packs and refs")
	only := flag.String("only", "", "kinds of faults, separated by commas (default: all)")
	shallow := flag.Bool("shallow", false, "leave the standard library as it is: no clock jumps, and no slow disk of the journal; saves minutes the first time")
	keep := flag.String("logs", "", "folder to leave the logs in (default: only those of a run that found something)")
	flag.Parse()
	s.For = time.Duration(*minutes * float64(time.Minute))
	if *only != "" {
		s.Only = strings.Split(*only, ",")
	}
	if *wrong != "" {
		w, known := broken[*wrong]
		if !known {
			fmt.Fprintf(os.Stderr, "--break %q: use one of %v\n", *wrong, slices.Sorted(maps.Keys(broken)))
			os.Exit(2)
		}
		s.Plan, s.Hasty = w.plan, true
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	inside, status, err := clustertest.Enclose(ctx)
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "without faults of the network and full disks: %v\n", err)
	case !inside:
		os.Exit(status)
	}
	s.Links = err == nil
	if s.Bin, err = os.MkdirTemp("", "faults-bin-"); err == nil {
		patches := slices.Concat(points, hurries, disks, broken[*wrong].patches)
		if s.Deep = !*shallow; s.Deep {
			patches = append(patches, deep...)
		}
		err = build(ctx, s.Bin, patches)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for range *runs {
		if err := report(ctx, s, *keep); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
		if s.Seed++; ctx.Err() != nil {
			break
		}
	}
	if err := os.RemoveAll(s.Bin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// report makes a run and prints what came of it. What it found is an error.
func report(ctx context.Context, s Settings, keep string) (err error) {
	if s.Dir, err = os.MkdirTemp(keep, "faults-"); err != nil {
		return err
	}
	sum, err := Run(ctx, s)
	if err != nil {
		return fmt.Errorf("seed %d: %w\nthe log is %s", s.Seed, err, filepath.Join(s.Dir, "events.jsonl"))
	}
	fmt.Println(sum)
	switch {
	case len(sum.Anomalies) == 0 && keep != "":
		return nil
	case len(sum.Anomalies) == 0:
		return os.RemoveAll(s.Dir)
	}
	return fmt.Errorf("%s\nthe logs are in %s\nrun it again: go run ./e2e/faults --seed %d --minutes %v",
		sum.found(), s.Dir, s.Seed, s.For.Minutes())
}
