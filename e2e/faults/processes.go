package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gitcluster/internal/clustertest"
)

// killChild ends one of the processes below the node, which may have none.
func (i *injector) killChild(f fault, n *clustertest.Node) {
	for range 100 {
		var below []int
		commands := map[int]string{}
		for _, pid := range descendants(n.PID()) {
			// One that has ended has no command.
			if command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(command) > 0 {
				below, commands[pid] = append(below, pid), strings.ReplaceAll(string(command), "\x00", " ")
			}
		}
		if len(below) > 0 {
			victim := below[f.choice%uint64(len(below))]
			syscall.Kill(victim, syscall.SIGKILL) // an error means that it has just ended
			i.history.note("killed %s", commands[victim])
			return
		}
		pause(10 * time.Millisecond)
	}
}

// descendants lists the processes that a process has started, and those they have.
func descendants(pid int) (all []int) {
	children := map[int][]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		_, parent := state(child)
		children[parent] = append(children[parent], child)
	}
	for next := []int{pid}; len(next) > 0; next = next[1:] {
		all = append(all, children[next[0]]...)
		next = append(next, children[next[0]]...)
	}
	return all
}

// state is a process's state, such as "Z", and its parent; "" if it is gone.
func state(pid int) (letter string, parent int) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	// "pid (name) state parent …", and a name may have blanks.
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return "", 0
	}
	parent, err = strconv.Atoi(fields[1])
	if err != nil {
		return "", 0
	}
	return fields[0], parent
}
