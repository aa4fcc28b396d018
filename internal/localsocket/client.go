package localsocket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"gitcluster/internal/cluster"
)

// ErrNodeGone: the node ended the connection before it said how the request
// ended. Whether a push that was under way has happened is unknown.
var ErrNodeGone = errors.New("the node went away before the command ended")

// RunSession runs a command on the node whose data directory is dir and returns
// its exit status. A nil stdin is empty. When it returns, a read of stdin may
// still be under way; nothing more is written.
func RunSession(ctx context.Context, dir string, req SessionRequest, stdin io.Reader, stdout, stderr io.Writer) (exit int, err error) {
	conn, err := Dial(ctx, dir)
	if err != nil {
		return 0, err
	}
	return run(ctx, conn, req.wire(), stdin, stdout, stderr)
}

// RunHook hands a hook over to the node at the socket, and returns the status
// that the hook has to exit with. Both come from [HookFromEnv]. Streams are
// those of [RunSession].
func RunHook(ctx context.Context, socket string, req HookRequest, stdin io.Reader, stdout, stderr io.Writer) (exit int, err error) {
	conn, err := dialSocket(ctx, socket, os.Geteuid())
	if err != nil {
		return 0, err
	}
	return run(ctx, conn, req.wire(), stdin, stdout, stderr)
}

// run makes a request on a fresh connection, which it closes.
func run(ctx context.Context, conn net.Conn, req request, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	line, err := req.line()
	if err != nil {
		return 0, err
	}
	// A node that refuses may close before it has read everything, so a failure
	// to write matters only if it gives no reason.
	_, writeErr := conn.Write(line)
	inputErr := make(chan error, 1)
	go func() {
		if err := sendInput(conn, stdin); err != nil {
			inputErr <- err
			// Its end must not look like the input's end.
			conn.Close()
		}
	}()
	status, err := receive(conn, stdout, stderr)
	if err == nil {
		return status, nil
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if !errors.Is(err, ErrNodeGone) {
		return 0, err
	}
	select {
	case inErr := <-inputErr:
		return 0, inErr
	default:
	}
	if writeErr != nil {
		return 0, fmt.Errorf("%w: %w", ErrNodeGone, writeErr)
	}
	return 0, err
}

// sendInput sends stdin as frames to its end. It fails only if reading does:
// where the node no longer takes input, it will say why.
func sendInput(conn net.Conn, stdin io.Reader) error {
	frames := &frameWriter{w: conn}
	buf := make([]byte, maxFrame)
	for stdin != nil {
		n, err := stdin.Read(buf)
		if n > 0 {
			if _, err := frames.send(frameStdin, buf[:n]); err != nil {
				return nil
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("input: %w", err)
		}
	}
	frames.send(frameStdinEOF, nil)
	return nil
}

// receive passes output on until the node says how the command ended.
func receive(conn net.Conn, stdout, stderr io.Writer) (int, error) {
	buf := make([]byte, maxFrame)
	for {
		kind, content, err := readFrame(conn, buf)
		if err != nil {
			if errors.Is(err, errBadFrame) {
				return 0, err
			}
			return 0, fmt.Errorf("%w: %w", ErrNodeGone, err)
		}
		switch kind {
		case frameStdout:
			_, err = stdout.Write(content)
		case frameStderr:
			_, err = stderr.Write(content)
		case frameExit:
			var exit exitFrame
			if err := json.Unmarshal(content, &exit); err != nil || exit.Status == nil {
				return 0, fmt.Errorf("%w: no exit status in %.80q", errBadFrame, content)
			}
			return *exit.Status, nil
		case frameError:
			var failed errorFrame
			if err := json.Unmarshal(content, &failed); err != nil {
				return 0, fmt.Errorf("%w: error: %w", errBadFrame, err)
			}
			err = errors.New(failed.Message)
			if failed.Hint != "" {
				err = cluster.WithHint(err, failed.Hint)
			}
			return 0, err
		default:
			return 0, fmt.Errorf("%w: type %d from the node", errBadFrame, kind)
		}
		if err != nil {
			return 0, fmt.Errorf("output: %w", err)
		}
	}
}
