package gitexec

import "os/exec"

// Find returns the path of the program that a command's first word stands for.
func Find(program string) (string, error) { return exec.LookPath(program) }
