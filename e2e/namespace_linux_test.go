package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A namespace is a network namespace from which some hosts are at a distance each.
// Its wires are pairs of tun devices with this process between them, which holds
// every packet back: few kernels have netem.
type namespace struct {
	wrap  []string // runs the command behind it there
	hosts []string // by the order of the delays
	wires []*wire
}

// A wire carries IP packets both ways.
type wire struct {
	delay time.Duration // each way
	// left is how many bytes more pass from the hosts before the wire is cut and all
	// packets vanish, either way; <0: any number.
	left atomic.Int64
}

// cut lets so many bytes more pass from the hosts.
func (w *wire) cut(bytes int64) { w.left.Store(bytes) }

// heal makes the wire whole.
func (w *wire) heal() { w.left.Store(-1) }

// passes reports whether a packet gets through.
func (w *wire) passes(size int, answer bool) bool {
	for {
		left := w.left.Load()
		switch {
		case left < 0:
			return true
		case left == 0:
			return false
		case !answer:
			return true
		case w.left.CompareAndSwap(left, max(0, left-int64(size))):
			return left >= int64(size)
		}
	}
}

// newNamespace skips the test where it may not make one.
func newNamespace(t testing.TB, delays ...time.Duration) *namespace {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skipf("no network namespaces: %v", err)
	}
	ip := func(line string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Skipf("no network namespaces: ip %s: %v: %s", line, err, strings.TrimSpace(string(out)))
		}
	}
	number := namespaces.Add(1)
	name := fmt.Sprintf("gc%d-%d", os.Getpid(), number)
	ip("netns add " + name)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	ip("-n " + name + " link set lo up")
	n := &namespace{wrap: []string{"ip", "netns", "exec", name}}
	for i, delay := range delays {
		// Names of devices have at most 15 bytes.
		here, there := fmt.Sprintf("gch%d.%d.%d", os.Getpid()%100_000, number, i), fmt.Sprintf("gct%d.%d.%d", os.Getpid()%100_000, number, i)
		// 198.18.0.0/15 is for tests of networks (RFC 2544).
		net := fmt.Sprintf("198.18.%d.", (int(number)*8+i)%256)
		near, far := openTun(t, here), openTun(t, there)
		ip("link set " + there + " netns " + name)
		ip("addr add " + net + "1 peer " + net + "2 dev " + here)
		ip("link set " + here + " up")
		ip("-n " + name + " addr add " + net + "2 peer " + net + "1 dev " + there)
		ip("-n " + name + " link set " + there + " up")
		w := &wire{delay: delay}
		w.heal()
		var pumps sync.WaitGroup
		pumps.Go(func() { w.pump(near, far, true) })
		pumps.Go(func() { w.pump(far, near, false) })
		t.Cleanup(func() {
			near.Close()
			far.Close()
			pumps.Wait()
		})
		n.hosts = append(n.hosts, net+"1")
		n.wires = append(n.wires, w)
	}
	return n
}

var namespaces atomic.Int32

// openTun makes a network device whose packets are read from and written to a file.
// It goes when that is closed.
func openTun(t testing.TB, name string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("no network namespaces: /dev/net/tun: %v", err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		unix.Close(fd)
		t.Skipf("no network namespaces: a tun device: %v", err)
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun")
}

// pump passes packets on until a device is closed, each delay later than it came.
func (w *wire) pump(from, to *os.File, answers bool) {
	type packet struct {
		data []byte
		due  time.Time
	}
	packets := make(chan packet, 10_000) // what exceeds a queue is lost, as on any network
	go func() {
		defer close(packets)
		for {
			data := make([]byte, 2048)
			n, err := from.Read(data)
			if err != nil {
				return
			}
			if !w.passes(n, answers) {
				continue
			}
			select {
			case packets <- packet{data[:n], time.Now().Add(w.delay)}:
			default:
			}
		}
	}()
	for p := range packets {
		time.Sleep(time.Until(p.due))
		if w.left.Load() != 0 {
			to.Write(p.data) // a device that is closed or down takes none
		}
	}
}
