// Package failpoint lets a fault run stop a node at a named point of its code. It
// is in no program that is released: only the fault run's builds call it.
//
// Entry points: [Hit] in a node; [Arm] and [Disarm] in the run.
package failpoint

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// Env names the file by which a node's points are armed.
const Env = "GIT_CLUSTER_FAILPOINT"

// EnvUnreached is how long a node keeps objects that no ref reaches.
const EnvUnreached = "GIT_CLUSTER_FAULT_UNREACHED"

// Unreached is what that says, or 0.
func Unreached() time.Duration {
	d, err := time.ParseDuration(os.Getenv(EnvUnreached))
	if err != nil {
		return 0
	}
	return d
}

// What happens at a point.
const (
	Kill = "kill" // the process ends as by a power cut
	Stop = "stop" // it stops until somebody lets it go on
	Wait = "wait" // whoever has come there waits for a while, and the process goes on
	Lose = "lose" // the point's own code loses what it has just heard
)

// waitFor is how long that is.
const waitFor = 2 * time.Second

// Arm has the next process that comes to the point, and has the file in its
// environment, do the action, once.
func Arm(file, point, action string) error {
	whole := file + ".new"
	if err := os.WriteFile(whole, []byte(point+" "+action), 0o600); err != nil {
		return err
	}
	return os.Rename(whole, file)
}

// Disarm takes back what nobody has come to, and reports whether that was so.
func Disarm(file string) (unused bool, err error) {
	err = os.Remove(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Hit does what the point is armed for, and reports whether that is Lose.
func Hit(point string) (lose bool) {
	file := os.Getenv(Env)
	if file == "" {
		return false
	}
	for _, action := range []string{Kill, Stop, Wait, Lose} {
		text, err := os.ReadFile(file)
		if err != nil || string(text) != point+" "+action || os.Remove(file) != nil {
			continue // os.Remove succeeds for one of those who come at once
		}
		switch action {
		case Kill:
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		case Stop:
			syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		case Wait:
			time.Sleep(waitFor)
		case Lose:
			return true
		}
		return false
	}
	return false
}
