package prompt

import (
	"context"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/windows"
)

// terminalIsOurs reports whether the process has a console.
func terminalIsOurs() bool {
	in, err := os.OpenFile("CONIN$", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer in.Close()
	var mode uint32
	return windows.GetConsoleMode(windows.Handle(in.Fd()), &mode) == nil
}

// onTerminal asks on the console of the process.
func onTerminal(ctx context.Context, question string, secret bool) (string, error) {
	in, err := os.OpenFile("CONIN$", os.O_RDWR, 0)
	if err != nil {
		return "", ErrNobody
	}
	defer in.Close()
	out, err := os.OpenFile("CONOUT$", os.O_WRONLY, 0)
	if err != nil {
		return "", ErrNobody
	}
	defer out.Close()
	console := windows.Handle(in.Fd())
	var mode uint32
	if err := windows.GetConsoleMode(console, &mode); err != nil {
		return "", ErrNobody
	}
	if secret {
		hidden := mode&^windows.ENABLE_ECHO_INPUT | windows.ENABLE_LINE_INPUT | windows.ENABLE_PROCESSED_INPUT
		if err := windows.SetConsoleMode(console, hidden); err != nil {
			return "", err
		}
		defer func() {
			windows.SetConsoleMode(console, mode)
			io.WriteString(out, "\r\n")
		}()
	}
	if _, err := io.WriteString(out, question); err != nil {
		return "", err
	}
	read := make(chan string, 1)
	go func() {
		units, n := make([]uint16, maxAnswer), uint32(0)
		if windows.ReadConsole(console, &units[0], uint32(len(units)), &n, nil) != nil {
			n = 0
		}
		read <- strings.TrimRight(windows.UTF16ToString(units[:n]), "\r\n")
	}()
	select {
	case text := <-read:
		return text, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}
