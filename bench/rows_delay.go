package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/config"
)

// farAway measures a fetch that brings nothing over a line with a long round trip,
// and the same without one: the difference says how many there are.
func farAway(ctx context.Context, b *bench) error {
	dir := b.newDir("far")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	n := b.cluster.Nodes[0]
	way, err := newDetour(n.SSH)
	if err != nil {
		return err
	}
	defer way.Close()
	ways := []*detour{way}
	key, err := nodeKey(n)
	if err != nil {
		return err
	}
	alone := &config.Client{Default: "test", Clusters: map[string]*config.Cluster{"test": {
		User: "git", Identity: b.key, Learn: new(bool),
		Nodes: []config.Node{{Name: n.Name, SSH: way.addr, HostKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))}},
	}}}
	path := filepath.Join(dir, "client.toml")
	if err := alone.Write(path); err != nil {
		return err
	}
	t := b.ours()
	t.user = t.user.With(config.EnvClient + "=" + path)
	targets := []target{t}
	if b.sshd != nil {
		way, err := newDetour(b.sshd.addr)
		if err != nil {
			return err
		}
		defer way.Close()
		ways = append(ways, way)
		host, port, _ := strings.Cut(way.addr, ":")
		settings := clientSettings(host, port, b.sshd.account, b.key, filepath.Join(b.sshd.dir, "known_hosts"))
		coldFile, warmFile := filepath.Join(dir, "cold"), filepath.Join(dir, "warm")
		for path, more := range map[string]string{coldFile: "", warmFile: "  ControlPath " + filepath.Join(dir, "master") + "\n"} {
			if err := os.WriteFile(path, []byte(settings+more), 0o600); err != nil {
				return err
			}
		}
		end, err := keepMaster(ctx, "ssh", warmFile)
		if err != nil {
			return err
		}
		defer end()
		targets = append(targets, b.overSSH(cold, "cold", coldFile), b.overSSH(warm, "warm", warmFile))
	}
	var all []contestant
	for _, t := range targets {
		clone := filepath.Join(dir, strings.ReplaceAll(t.name, " ", "-"))
		if _, err := t.git(ctx, "", "clone", "-q", "--no-checkout", t.url(repoQuiet), clone); err != nil {
			return err
		}
		for _, far := range []time.Duration{0, b.RoundTrip} {
			all = append(all, contestant{fmt.Sprint(t.name, far), func(ctx context.Context) (time.Duration, error) {
				for _, w := range ways {
					w.roundTrip(far)
				}
				return t.git(ctx, clone, "fetch", "-q")
			}})
		}
	}
	got, err := alternate(ctx, b.Slow, all...)
	if err != nil {
		return err
	}
	trips := map[string]sample{}
	times := map[string]sample{}
	for _, t := range targets {
		times[t.name] = got[fmt.Sprint(t.name, b.RoundTrip)]
		// The lower quartiles: what a busy machine adds would be counted as well.
		more := times[t.name].Low - got[fmt.Sprint(t.name, time.Duration(0))].Low
		trips[t.name] = newSample("", more/milliseconds(b.RoundTrip))
	}
	b.against(fmt.Sprintf("no-op fetch at %v of delay", b.RoundTrip), times, nil)
	row := "round trips of a no-op fetch"
	if b.sshd == nil {
		b.report.number(row, trips[ours], 0, "")
		return nil
	}
	// Half a round trip is more than what the noise of a busy machine comes to.
	fewer := (trips[cold].Median - 0.5) / trips[cold].Median
	b.against(row, trips, map[string]float64{cold: fewer})
	return nil
}
