package admin

import (
	"context"
	"errors"
	"fmt"
	"net"

	"gitcluster/internal/cluster"
)

// DeviceName names a device.
type DeviceName struct {
	Device cluster.DeviceName `json:"device"`
}

// DeviceView is a device with its key's fingerprint.
type DeviceView struct {
	cluster.Device
	Fingerprint string `json:"fingerprint"`
}

// DeviceSet changes what the cluster holds of a device; a nil field stays as it
// is. A device that is disabled or not trusted is refused from its next command
// on, on connections it has open, too.
type DeviceSet struct {
	Device   cluster.DeviceName `json:"device"`
	Enabled  *bool              `json:"enabled,omitempty"`
	Trusted  *bool              `json:"trusted,omitempty"`
	Writable *bool              `json:"writable,omitempty"`
	Region   *string            `json:"region,omitempty"`
	SSH      *string            `json:"ssh,omitempty"`
	ActsAs   *bool              `json:"acts_as_users,omitempty"`
}

func (s *Server) deviceShow(ctx context.Context, p DeviceName) (any, error) {
	rules, err := s.Rules.Refresh(ctx)
	if err != nil {
		return nil, err
	}
	d, ok := rules.Device(p.Device)
	if !ok {
		return nil, fmt.Errorf("device %q: %w", p.Device, cluster.ErrNotFound)
	}
	_, fingerprint, err := NormalKey(d.PublicKey)
	return DeviceView{Device: d, Fingerprint: fingerprint}, err
}

func (s *Server) deviceSet(ctx context.Context, p DeviceSet) error {
	if p.SSH != nil {
		if host, port, err := net.SplitHostPort(*p.SSH); err != nil || host == "" || port == "" {
			return fmt.Errorf("address %q: use host:port", *p.SSH)
		}
	}
	return s.Journal.ChangeDevice(ctx, p.Device, func(d *cluster.Device) error {
		if !d.Node && (p.Writable != nil || p.SSH != nil) {
			return errors.New("only a node has an address and takes pushes")
		}
		set(&d.Enabled, p.Enabled)
		set(&d.Trusted, p.Trusted)
		set(&d.Writable, p.Writable)
		set(&d.Region, p.Region)
		set(&d.SSH, p.SSH)
		set(&d.ActsAs, p.ActsAs)
		return nil
	})
}

// set changes a field that a request names.
func set[T any](field *T, to *T) {
	if to != nil {
		*field = *to
	}
}
