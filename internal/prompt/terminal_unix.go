//go:build unix

package prompt

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// terminalIsOurs reports whether the process has a terminal from which it may read.
func terminalIsOurs() bool {
	tty, err := openTerminal()
	if err != nil {
		return false
	}
	tty.Close()
	return true
}

// openTerminal opens the terminal of the process, wherever its standard streams
// go. The error is ErrNobody where there is none, or where reading from it would
// stop the process because another uses it.
func openTerminal() (*os.File, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, ErrNobody
	}
	if group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP); err != nil || group != unix.Getpgrp() {
		tty.Close()
		return nil, ErrNobody
	}
	return tty, nil
}

// onTerminal asks on the terminal of the process. The error is ErrNobody where there
// is none.
func onTerminal(ctx context.Context, question string, secret bool) (string, error) {
	tty, err := openTerminal()
	if err != nil {
		return "", err
	}
	defer tty.Close()
	fd := int(tty.Fd())
	if secret {
		shown, err := unix.IoctlGetTermios(fd, getTermios)
		if err != nil {
			return "", ErrNobody
		}
		hidden := *shown
		hidden.Lflag &^= unix.ECHO
		hidden.Lflag |= unix.ICANON | unix.ISIG
		if err := unix.IoctlSetTermios(fd, setTermios, &hidden); err != nil {
			return "", err
		}
		defer func() {
			unix.IoctlSetTermios(fd, setTermios, shown)
			io.WriteString(tty, "\n") // the one that was typed was not shown
		}()
	}
	if _, err := io.WriteString(tty, question); err != nil {
		return "", err
	}
	type line struct {
		text string
		err  error
	}
	// A read of a terminal cannot always be ended; the process soon is.
	read := make(chan line, 1)
	go func() {
		text, err := readLine(tty)
		read <- line{text, err}
	}()
	select {
	case l := <-read:
		return l.text, l.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

var errEnd = errors.New("no answer was given")

func readLine(r io.Reader) (string, error) {
	var text []byte
	for b := make([]byte, 1); len(text) < maxAnswer; {
		if n, err := r.Read(b); n == 0 {
			if err == nil {
				continue
			}
			return "", errEnd
		}
		if b[0] == '\n' || b[0] == '\r' {
			return string(text), nil
		}
		text = append(text, b[0])
	}
	return "", errEnd
}
