//go:build !linux

package repository

import "errors"

func canSyncFS() bool { return false }

func syncFS(string) error { return errors.ErrUnsupported }
