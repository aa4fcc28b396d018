package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// newNamespace makes a network namespace from which each of the returned hosts is
// at its delay, each way. Commands with wrap before them run there.
func newNamespace(t testing.TB, delays ...time.Duration) (wrap, hosts []string) {
	t.Helper()
	for _, program := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no network namespaces: %v", err)
		}
	}
	run := func(line string) error {
		words := strings.Fields(line)
		if out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %v: %s", line, err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	name := fmt.Sprintf("gc%d", os.Getpid()%100_000)
	if err := run("ip netns add " + name); err != nil {
		t.Skipf("no network namespaces: %v", err)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	for i, delay := range delays {
		here, there := fmt.Sprintf("%sa%d", name, i), fmt.Sprintf("%sb%d", name, i)
		host, guest := fmt.Sprintf("198.18.%d.1", 100+i), fmt.Sprintf("198.18.%d.2", 100+i)
		for _, line := range []string{
			"ip link add " + here + " type veth peer name " + there + " netns " + name,
			"ip addr add " + host + "/30 dev " + here,
			"ip link set " + here + " up",
			"ip -n " + name + " addr add " + guest + "/30 dev " + there,
			"ip -n " + name + " link set " + there + " up",
			"ip -n " + name + " link set lo up",
		} {
			if err := run(line); err != nil {
				t.Skipf("no network namespaces: %v", err)
			}
		}
		for _, line := range []string{
			fmt.Sprintf("tc qdisc add dev %s root netem delay %s", here, delay),
			fmt.Sprintf("ip netns exec %s tc qdisc add dev %s root netem delay %s", name, there, delay),
		} {
			if err := run(line); err != nil {
				t.Skipf("this kernel delays no packets: %v", err)
			}
		}
		hosts = append(hosts, host)
	}
	return []string{"ip", "netns", "exec", name}, hosts
}
