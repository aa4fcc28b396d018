package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gitcluster/internal/freeport"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// A nodeProcess is one node, running or not. Its exported fields are its entry
// in nodes.json.
type nodeProcess struct {
	Name         string   `json:"name"`
	PID          int      `json:"pid"`
	SSH          string   `json:"ssh"`
	HTTP         string   `json:"http"`
	Data         string   `json:"data"`
	Repositories string   `json:"repositories"`
	Command      []string `json:"command"`

	peer, client string
	log          string
	cancel       context.CancelFunc
	ended        chan struct{} // closed when the process is gone; nil before its first start
	err          error
}

func (d *demo) newNode(name string) (*nodeProcess, error) {
	ports, err := freeport.Addrs(4)
	if err != nil {
		return nil, err
	}
	data := d.path(name)
	return &nodeProcess{
		Name: name, SSH: ports[0], peer: ports[1], client: ports[2], HTTP: ports[3],
		Data: data, Repositories: filepath.Join(data, "repositories"),
		Command: []string{d.self, "serve", "--data", data},
		log:     d.path(name + ".log"),
	}, nil
}

// settings are the arguments of init and join.
func (n *nodeProcess) settings(args ...string) []string {
	return append(args, "--data", n.Data, "--name", n.Name, "--ssh", n.SSH, "--http", n.HTTP, "--journal-peer", n.peer, "--journal-client", n.client)
}

// startNode starts the node's process and waits until it answers.
func (d *demo) startNode(ctx context.Context, n *nodeProcess) error {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// The node lives until it is told to stop, not as long as this step.
	life, cancel := context.WithCancel(context.Background())
	p, err := d.run.Start(life, gitcmd.Command{Args: n.Command, Env: d.environment()}, gitexec.IO{Stdout: log, Stderr: log})
	if err != nil {
		cancel()
		return err
	}
	n.PID, n.cancel, n.ended = p.PID(), cancel, make(chan struct{})
	go func() {
		n.err = p.Wait()
		close(n.ended)
	}()
	last := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		text, err := d.output(ctx, d.self, "status", "--json", "--data", n.Data)
		if err == nil && strings.Contains(text, `"node"`) {
			return nil
		}
		last = fmt.Sprint(err)
		select {
		case <-n.ended:
			return fmt.Errorf("%s ended at its start: %w", n.Name, n.err)
		default:
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s does not answer after 30 s: %s", n.Name, last)
}

func (n *nodeProcess) running() bool {
	if n.ended == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// kill ends the node as a power cut would.
func (n *nodeProcess) kill() {
	n.signal(os.Kill)
	<-n.ended
}

func (n *nodeProcess) terminate() {
	if n.running() {
		n.signal(syscall.SIGTERM)
	}
}

func (n *nodeProcess) signal(s os.Signal) {
	if p, err := os.FindProcess(n.PID); err == nil {
		p.Signal(s) // an error means that it is gone already
	}
}

func (n *nodeProcess) awaitEnd(limit time.Duration) error {
	if n.ended == nil {
		return nil
	}
	defer n.cancel()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-n.ended:
		return nil
	case <-t.C:
		n.kill()
		return fmt.Errorf("%s did not stop within %v and was killed", n.Name, limit)
	}
}
