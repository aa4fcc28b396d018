package credential

import (
	"fmt"
	"strings"

	"gitcluster/internal/cluster"
)

// The variables by which a person chooses between the device's identity and
// their own.
const (
	EnvAsDevice   = "PHABRICATOR_AS_DEVICE"
	EnvCredential = "PHABRICATOR_CREDENTIAL"
)

// AsDevice reports whether Git is to act as this device and not as a user.
func AsDevice(getenv func(string) string) bool {
	v := getenv(EnvAsDevice)
	return v != "" && v != "0"
}

// Conflict returns an error if the environment asks for the device's identity
// and a user's at the same time. users are further user identities that the
// caller was given, in words: `the user "alice" of the address`. To guess which
// one was meant could show a person's credential where a machine's was
// expected, or push in the wrong name.
func Conflict(getenv func(string) string, users ...string) error {
	if !AsDevice(getenv) {
		return nil
	}
	if getenv(EnvCredential) != "" {
		// Its value is not repeated: it may be the credential itself.
		users = append([]string{EnvCredential}, users...)
	}
	if len(users) == 0 {
		return nil
	}
	return cluster.WithHint(
		fmt.Errorf("%s asks for the device's identity, and %s for a user's", EnvAsDevice, strings.Join(users, " and ")),
		"use one of them")
}
