package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// A machine is where a run was made, as far as its numbers depend on that.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	System string `json:"system"`
	Git    string `json:"git"`
	SSH    string `json:"ssh"`
	Go     string `json:"go"`
	Commit string `json:"commit"` // of this checkout
	// LoadBefore and LoadAfter are /proc/loadavg: what else the machine did.
	LoadBefore string `json:"load_before"`
	LoadAfter  string `json:"load_after"`
	// Fsync is how long the disk took to sync four kilobytes: a push waits for
	// several, one after the other.
	Fsync sample `json:"fsync"`
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %s; %s\n%s; %s; %s; commit %s\nload %s before, %s after; fsync %v",
		m.CPU, m.Cores, m.Memory, m.System, m.Git, m.SSH, m.Go, m.Commit, m.LoadBefore, m.LoadAfter, m.Fsync)
}

// lookAround describes this machine; work is a folder on the disk that is used.
func lookAround(ctx context.Context, root, work string) (m machine, err error) {
	m = machine{Cores: runtime.NumCPU(), Go: runtime.Version(), LoadBefore: load()}
	m.CPU = cmp.Or(field("/proc/cpuinfo", "model name"), runtime.GOARCH)
	m.Memory = field("/proc/meminfo", "MemTotal")
	m.Git = said(ctx, "git", "version")
	m.SSH = said(ctx, "ssh", "-V")
	m.System = said(ctx, "uname", "-srm")
	m.Commit = said(ctx, "git", "-C", root, "describe", "--always", "--dirty")
	m.Fsync, err = measureFsync(work)
	return m, err
}

func load() string {
	text, _ := os.ReadFile("/proc/loadavg") // elsewhere than on Linux nothing is said
	words := strings.Fields(string(text))
	return strings.Join(words[:min(3, len(words))], " ")
}

// field is the value of the first line of a file that begins with a name.
func field(path, name string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if before, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(before) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// said is the first line a program prints of itself.
func said(ctx context.Context, args ...string) string {
	var out strings.Builder
	err := new(gitexec.Runner).Run(ctx, gitcmd.Command{Args: args, Env: os.Environ()}, gitexec.IO{Stdout: &out, Stderr: &out})
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(out.String(), "\n")
	return line
}

func measureFsync(dir string) (sample, error) {
	f, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		return sample{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var took []float64
	for range 50 {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return sample{}, err
		}
		start := time.Now()
		if err := f.Sync(); err != nil {
			return sample{}, err
		}
		took = append(took, milliseconds(time.Since(start)))
	}
	return newSample("ms", took...), nil
}
