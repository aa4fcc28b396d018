package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What processes have cost, from proc(5).

// A stat is a line of /proc/PID/stat.
type stat struct {
	parent       int
	self, waited time.Duration // CPU time, and that of children that have been waited for
}

const tick = time.Second / 100 // USER_HZ

func readStat(pid int) (s stat, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, err
	}
	// "pid (name) state parent …", and a name may have blanks.
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return s, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	value := func(i int) (n int) {
		if err == nil {
			n, err = strconv.Atoi(fields[i])
		}
		return n
	}
	s.parent = value(1)
	s.self = time.Duration(value(11)+value(12)) * tick
	s.waited = time.Duration(value(13)+value(14)) * tick
	return s, err
}

// A usage is what servers have used, and how many processes they have now.
type usage struct {
	cpu       time.Duration // with that of all processes they have started, whether those still run or not
	processes int           // without those that wait for work
}

// used looks at servers and all below them.
func used(servers ...int) (u usage, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return u, err
	}
	children := map[int][]int{}
	stats := map[int]stat{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		s, err := readStat(pid)
		if err != nil {
			continue // it has just ended
		}
		stats[pid] = s
		children[s.parent] = append(children[s.parent], pid)
	}
	for next := slices.Clone(servers); len(next) > 0; next = next[1:] {
		s, ok := stats[next[0]]
		if !ok {
			return u, fmt.Errorf("process %d: %w", next[0], fs.ErrNotExist)
		}
		u.cpu += s.self + s.waited
		if !waits(next[0]) {
			u.processes++
		}
		next = append(next, children[next[0]]...)
	}
	return u, nil
}

// waits reports whether a process is one that a node keeps for its next transaction.
func waits(pid int) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.HasPrefix(string(args), "git\x00update-ref\x00")
}

// usedSince is the CPU time that servers have used since before. It waits until what
// they have started since has ended: of a process that ends while one looks, neither
// its own line nor its parent's may tell.
func usedSince(ctx context.Context, before usage, servers ...int) (cpu time.Duration, err error) {
	err = await(ctx, 20*time.Second, func() string {
		now, err := used(servers...)
		if err != nil {
			return err.Error()
		}
		cpu = now.cpu - before.cpu
		if more := now.processes - before.processes; more > 0 {
			return fmt.Sprintf("%d processes more than before", more)
		}
		return ""
	})
	return cpu, err
}

// memory is what a process has in memory, and what of that is not a part of files,
// in MB.
func memory(pid int) (resident, own float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	read := func(name string) (mb float64) {
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, name+":"); ok {
				kb, parseErr := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
				if parseErr != nil {
					err = parseErr
				}
				return kb / 1000
			}
		}
		err = errors.Join(err, fmt.Errorf("/proc/%d/status has no %s", pid, name))
		return 0
	}
	return read("VmRSS"), read("RssAnon"), err
}

// unread counts the TCP connections of a server at a port of an IPv4 address in
// which something waits that the server has not read.
func unread(addr string) (n int, err error) {
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0, err
	}
	local, err := hexAddress(addr)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		// "sl local remote state tx_queue:rx_queue …"; 01 is an established one.
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[1] != local || fields[3] != "01" {
			continue
		}
		if _, queue, _ := strings.Cut(fields[4], ":"); strings.Trim(queue, "0") != "" {
			n++
		}
	}
	return n, nil
}

// hexAddress is an address as /proc/net/tcp has it, on a little-endian machine.
func hexAddress(addr string) (string, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return "", err
	}
	ip := a.Addr().As4()
	return fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], a.Port()), nil
}
