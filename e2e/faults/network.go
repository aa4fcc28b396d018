package main

import (
	"context"
	"errors"

	"gitcluster/internal/clustertest"
)

// cut makes a fault of the network happen, and heals it.
func (i *injector) cut(ctx context.Context, f fault) error {
	i.begin(f)
	heal, err := i.sever(f)
	i.wait(ctx, 2*f.lasts)
	return errors.Join(err, heal())
}

// sever cuts what a fault says, until it is healed.
func (i *injector) sever(f fault) (heal func() error, err error) {
	pairs, nets := i.severed(f)
	for _, p := range pairs {
		err = errors.Join(err, i.links.Cut(p[0], p[1], nets...))
	}
	return func() (err error) {
		for _, p := range pairs {
			err = errors.Join(err, i.links.Heal(p[0], p[1], nets...))
		}
		return err
	}, err
}

// severed are the pairs of which the first no longer reaches the second, and in which
// nets; none stands for all.
func (i *injector) severed(f fault) (pairs [][2]string, nets []clustertest.Net) {
	name := func(k int) string { return i.cluster.Nodes[k%3].Name }
	both := func(a, b string) { pairs = append(pairs, [2]string{a, b}, [2]string{b, a}) }
	switch f.kind {
	case "cut journal", "cut journal one way":
		nets = []clustertest.Net{clustertest.Journals}
	case "cut peers", "cut clients":
		nets = []clustertest.Net{clustertest.Fronts}
	}
	switch f.kind {
	case "cut":
		both(name(f.node), name(f.other))
	case "cut one way", "cut journal one way":
		pairs = [][2]string{{name(f.node), name(f.other)}}
	case "isolate", "cut journal", "cut peers":
		both(name(f.node), name(f.node+1))
		both(name(f.node), name(f.node+2))
	case "cut clients":
		both(name(f.node), clustertest.Clients)
	}
	return pairs, nets
}
