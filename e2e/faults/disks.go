package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"gitcluster/e2e/faults/disk"
	"gitcluster/internal/clustertest"
	"gitcluster/internal/gitexec"
)

// slowDisk lets every sync of a node and of its Git processes take its time.
func (i *injector) slowDisk(ctx context.Context, f fault, n *clustertest.Node) error {
	err := disk.Slow(i.states[n.Name], time.Duration(20+f.choice%280)*time.Millisecond)
	i.wait(ctx, 2*f.lasts)
	return errors.Join(err, disk.Slow(i.states[n.Name], 0))
}

// losePower takes from the disk of a node that was killed what was not synced: all of
// it, or by chance the names in one directory and not in another, or contents alone.
func (i *injector) losePower(f fault, n *clustertest.Node) error {
	state := i.states[n.Name]
	if state == "" {
		return nil
	}
	if err := awaitWriters(n); err != nil {
		return err
	}
	random, flavour := rand.New(rand.NewPCG(f.choice, 0)), f.choice%3
	lost, err := disk.Lose(state, func(string) bool { return flavour == 1 && random.IntN(2) == 0 || flavour == 2 })
	if errors.Is(err, disk.ErrUntold) {
		i.history.note("%s keeps what it has: %v", n.Name, err)
		return nil
	}
	i.history.note("%s lost %d names and contents", n.Name, lost)
	if err == nil && i.holds != nil {
		i.holds(n)
	}
	return err
}

// awaitWriters waits until the last Git process of a killed node is gone.
func awaitWriters(n *clustertest.Node) error {
	lock, err := os.OpenFile(filepath.Join(n.Data, "lock"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer lock.Close()
	for end := time.Now().Add(time.Minute); ; pause(10 * time.Millisecond) {
		if err := gitexec.TryLock(lock); err == nil {
			return nil
		} else if time.Now().After(end) {
			return fmt.Errorf("a Git process of %s goes on: %w", n.Name, err)
		}
	}
}

// fill leaves no room on the disk with the node's replicas.
func (i *injector) fill(ctx context.Context, f fault, n *clustertest.Node) error {
	filler := filepath.Join(i.disk, "filler")
	file, err := os.Create(filler)
	if err != nil {
		return err
	}
	defer file.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := file.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	i.wait(ctx, 2*f.lasts)
	return os.Remove(filler)
}

// wipe takes all replicas of a node away, or puts older ones in their place. The
// node gets them back by itself; until it has, no other loses its own.
func (i *injector) wipe(ctx context.Context, f fault, n *clustertest.Node) error {
	if !i.alone.TryLock() {
		return nil
	}
	defer i.alone.Unlock()
	wipe := i.history.wipe(n.Name)
	n.Kill()
	replicas := filepath.Join(n.Data, "repositories")
	older := filepath.Join(i.older, n.Name)
	script := `find "$1/" -mindepth 1 -delete`
	if f.kind == "restore" {
		// What is there now is what the next time is older.
		script = `mkdir -p "$2/new" && cp -a "$1/." "$2/new" && find "$1/" -mindepth 1 -delete &&
			if [ -d "$2/old" ]; then cp -a "$2/old/." "$1/"; fi && rm -rf "$2/old" && mv "$2/new" "$2/old"`
	}
	if err := i.cluster.Admin.Run("", "sh", "-c", script, "sh", replicas, older).Err(); err != nil {
		return err
	}
	if state := i.states[n.Name]; state != "" {
		if err := disk.Trust(state); err != nil {
			return err
		}
	}
	i.wait(ctx, f.lasts)
	if err := n.Launch(); err != nil {
		return err
	}
	if err := n.AwaitReady(startLimit); err != nil {
		return err
	}
	i.history.ended(&wipe.runs)
	err := i.refill(ctx, n.Name)
	if err == nil && ctx.Err() == nil {
		i.history.ended(&wipe.refill)
	}
	return err
}
