package client

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"gitcluster/internal/nodecache"
)

// Whoever wants the helper to end is heard from Git's first answer on, and ends what
// it waits for: Git's next command, or its configuration.
func TestWatchEndsTheRun(t *testing.T) {
	stopped := errors.New("stopped")
	for name, say := range map[string]string{
		"between two commands": "capabilities\n",
		"while it connects":    "capabilities\nconnect git-upload-pack\n",
	} {
		t.Run(name, func(t *testing.T) {
			in, git := io.Pipe()
			defer git.Close()
			fromHelper, out := io.Pipe()
			defer fromHelper.Close()
			go io.WriteString(git, say)
			interrupt := make(chan struct{})
			var stops int
			ran := make(chan error, 1)
			go func() {
				ran <- Run(t.Context(), Params{
					Args: []string{"origin", "cluster://192.0.2.1/x"}, In: in, Out: out, Err: io.Discard,
					Getenv: func(name string) string {
						return map[string]string{"GIT_SSH_COMMAND": "false"}[name]
					},
					GitConfig: func(ctx context.Context, _ ...string) ([]byte, error) {
						<-ctx.Done()
						return nil, ctx.Err()
					},
					Watch: func(ctx context.Context) (context.Context, context.CancelFunc) {
						ctx, cancel := context.WithCancelCause(ctx)
						go func() { <-interrupt; cancel(stopped) }()
						return ctx, func() { stops++ }
					},
					Config: t.TempDir() + "/client.toml",
					Cache:  (*nodecache.Cache)(nil),
				})
			}()
			if _, err := io.ReadFull(fromHelper, make([]byte, len("connect\noption\n\n"))); err != nil {
				t.Fatal(err)
			}
			close(interrupt)
			select {
			case err := <-ran:
				if !errors.Is(err, stopped) || stops != 1 {
					t.Errorf("Run: %v, watched %d times to the end", err, stops)
				}
			case <-time.After(20 * time.Second):
				t.Error("Run goes on")
			}
		})
	}
}
