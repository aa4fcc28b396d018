package main

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"gitcluster/internal/clustertest"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// Some faults are below everything a node is made of: its clock, and the syncs of the
// journal's server. For those the standard library itself is changed, so that
// everything has to be compiled anew, once.

// inStd begins the name of a file of the standard library.
const inStd = "std@"

// envClock names a file with the seconds by which a node's clock is ahead.
const envClock = "GIT_CLUSTER_FAULT_CLOCK"

// deep are the changes. What measures how long something takes is left as it is, as
// when somebody sets a machine's clock.
var deep = []patch{
	{inStd + "time/time.go", "sec, nsec, mono := runtimeNow()\n\tif mono == 0 {\n\t\treturn Time{uint64(nsec), sec + unixToInternal, Local}",
		"sec, nsec, mono := runtimeNow()\n\tsec += faultShift()\n\tif mono == 0 {\n\t\treturn Time{uint64(nsec), sec + unixToInternal, Local}"},
	{inStd + "time/fault.go", "", `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var faultClock = faultOpen()

func faultShift() int64 {
	if faultClock == nil {
		return 0
	}
	return faultClock.Load()
}

func faultOpen() *atomic.Int64 {
	name, _ := syscall.Getenv("` + envClock + `")
	if name == "" {
		return nil
	}
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	data, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil
	}
	return (*atomic.Int64)(unsafe.Pointer(&data[0]))
}
`},
	{inStd + "syscall/zsyscall_linux_" + runtime.GOARCH + ".go", "func Fdatasync(fd int) (err error) {\n", "func Fdatasync(fd int) (err error) {\n\tfaultWait()\n"},
	{inStd + "syscall/fault.go", "", `package syscall

func faultWait() {
	state, _ := Getenv("GIT_CLUSTER_FAULT_DISK")
	if state == "" {
		return
	}
	fd, err := Open(state+"/slow", O_RDONLY|O_CLOEXEC, 0)
	if err != nil {
		return
	}
	var text [16]byte
	n, _ := Read(fd, text[:])
	Close(fd)
	ms := int64(0)
	for _, c := range text[:max(n, 0)] {
		ms = 10*ms + int64(c-'0')
	}
	for left := NsecToTimespec(ms * 1e6); Nanosleep(&left, &left) == EINTR; {
	}
}
`},
}

// source is where a patch's file is.
func source(ctx context.Context, file string) (string, error) {
	root, err := clustertest.ModuleRoot()
	if err != nil {
		return "", err
	}
	name, std := strings.CutPrefix(file, inStd)
	if !std {
		return filepath.Join(root, file), nil
	}
	ask := gitcmd.Command{Args: []string{"go", "env", "GOROOT"}, Env: os.Environ(), Dir: root}
	goroot, err := new(gitexec.Runner).Output(ctx, ask, nil)
	return filepath.Join(strings.TrimSpace(string(goroot)), "src", name), err
}

// clock is the file by which a node's clock is set.
func clock(n *clustertest.Node) string { return n.Data + ".clock" }

// setClock makes a node's clock go wrong by so much from now on.
func setClock(n *clustertest.Node, ahead time.Duration) error {
	f, err := os.OpenFile(clock(n), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(ahead/time.Second)), 0)
	return err
}

// jump sets a node's clock forward or back, and right again.
func (i *injector) jump(ctx context.Context, f fault, n *clustertest.Node) error {
	err := setClock(n, f.jumps())
	i.wait(ctx, 4*f.lasts)
	if err == nil {
		err = setClock(n, 0)
	}
	return err
}

// jumps is how far.
func (f fault) jumps() time.Duration {
	return []time.Duration{time.Hour, -time.Hour, 25 * time.Hour, -25 * time.Hour}[f.choice%4]
}
