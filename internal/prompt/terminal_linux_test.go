package prompt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envChild makes the test binary a program that asks on its terminal.
const envChild = "PROMPT_TEST_CHILD"

func TestMain(m *testing.M) {
	switch mode := os.Getenv(envChild); mode {
	case "":
	case "leader": // of a session, who has another in the background
		other := exec.Command(os.Args[0])
		other.Env = append(os.Environ(), envChild+"=secret")
		other.Stdout, other.SysProcAttr = os.Stdout, &syscall.SysProcAttr{Setpgid: true}
		if err := other.Run(); err != nil {
			fmt.Println(err)
		}
		os.Exit(0)
	default:
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		if mode == "cancelled" {
			time.AfterFunc(time.Second/4, cancel)
		}
		text, err := new(Person).Ask(ctx, "What is it? ", mode != "shown")
		fmt.Printf("answer %q, %v, nobody %v\n", text, err, errors.Is(err, ErrNobody))
		cancel()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// terminal makes a pseudo terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skip(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Skip(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func TestTerminal(t *testing.T) {
	for mode, want := range map[string]string{
		"secret":    `answer "the answer", <nil>, nobody false`,
		"shown":     `answer "the answer", <nil>, nobody false`,
		"cancelled": `answer "", context canceled, nobody false`,
		"ended":     `answer "", no answer was given, nobody false`,
	} {
		master, slave := terminal(t)
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), envChild+"="+mode)
		child.Stdin, child.SysProcAttr = slave, &syscall.SysProcAttr{Setsid: true, Setctty: true}
		var out strings.Builder
		child.Stdout = &out
		before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		screen := make(chan string, 1)
		go func() {
			var seen strings.Builder
			for b := make([]byte, 100); ; {
				n, err := master.Read(b)
				asked := strings.Contains(seen.String(), "What is it? ")
				seen.Write(b[:n])
				if !asked && strings.Contains(seen.String(), "What is it? ") {
					switch mode {
					case "secret", "shown":
						io.WriteString(master, "the answer\n")
					case "ended":
						io.WriteString(master, "\x04")
					}
				}
				if err != nil {
					screen <- seen.String()
					return
				}
			}
		}()
		if err := child.Wait(); err != nil {
			t.Fatal(err)
		}
		after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		if err != nil || *after != *before {
			t.Errorf("%s: the terminal is left as %+v, %v; it was %+v", mode, after, err, before)
		}
		slave.Close()
		if got := strings.TrimSpace(out.String()); got != want {
			t.Errorf("%s: %s, want %s", mode, got, want)
		}
		if seen := <-screen; strings.Contains(seen, "the answer") != (mode == "shown") {
			t.Errorf("%s: on the screen is %q", mode, seen)
		}
	}
}

// Where nobody would see the question, or reading would stop the process, nobody
// is asked.
func TestNoTerminal(t *testing.T) {
	run := func(child *exec.Cmd, mode string) string {
		child.Env = append(os.Environ(), envChild+"="+mode)
		out, err := child.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	alone := exec.Command(os.Args[0])
	alone.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if got := run(alone, "secret"); !strings.Contains(got, "nobody true") {
		t.Errorf("without a terminal: %s", got)
	}
	_, slave := terminal(t)
	background := exec.Command(os.Args[0])
	background.Stdin, background.SysProcAttr = slave, &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if got := run(background, "leader"); !strings.Contains(got, "nobody true") {
		t.Errorf("in the background: %s", got)
	}
}
