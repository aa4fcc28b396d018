package sshconfig

import "errors"

func mkfifo(string) error { return errors.New("there are no such files") }
