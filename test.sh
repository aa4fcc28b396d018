#!/bin/sh
# Sets up and runs every test.
#
#   ./test.sh                             what every change must pass, in minutes
#   GIT_CLUSTER_TEST_LONG=1 ./test.sh     all there is, which takes an hour and much disk
#
# As root on Debian it installs what the tests need and this machine lacks;
# elsewhere it says what is missing, and those tests say that they skip. All that
# runs has a HOME and a TMPDIR of its own, which are removed at the end, and what
# it leaves running is an error. Only Go's caches are those of the account.
#
# It ends with one line, and with 0 if everything passed.

set -eu

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2

main() {
	cd "$(dirname "$0")"
	root=$(pwd)
	long=${GIT_CLUSTER_TEST_LONG:-} limit=26m
	[ -z "$long" ] || limit=3h
	started=$(date +%s) failed='' passed=0 skipped='' policy='' work='' beside=''
	trap clean_up EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM

	heading "tools"
	tools
	own_surroundings

	run "format" format
	run "shell scripts" scripts
	run "manual pages" manuals
	run "build" go build ./...
	checks &
	beside=$!
	# No more packages at once than Go takes by itself: some tests hold what they do to a
	# time.
	run "tests" env CGO_ENABLED=1 GIT_CLUSTER_TEST_FAULT_SECONDS=30 GIT_CLUSTER_TEST_LONG="$long" \
		go test -race -vet=off -count=1 -timeout="$limit" ./...
	wait "$beside" || : # each step has a status of its own
	beside=''
	report
	run "measurements" bench/run --smoke --out "$work/bench"
	run "install, demo, uninstall" installation
	run "nothing left behind" leftovers

	took=$(($(date +%s) - started))
	echo
	[ -z "$skipped" ] || echo "Skipped:$skipped"
	if [ -n "$failed" ]; then
		echo "FAILED after ${took} s:$failed"
		exit 1
	fi
	echo "All $passed steps passed in ${took} s."
}

heading() {
	echo
	echo "== $1 ($(($(date +%s) - started)) s)"
}

# run NAME COMMAND… runs a step, and goes on if it fails, so that one run shows
# all that is wrong.
run() {
	heading "$1"
	running=$1
	shift
	if "$@"; then
		passed=$((passed + 1))
	else
		echo "-- $running failed (exit status $?)"
		failed="$failed [$running]"
	fi
}

# checks goes through the steps that only look at the code. It does so while the tests
# are under way, and gives way to them.
checks() {
	trap - EXIT HUP INT TERM # what is to be done then, the one does that waits for it
	sh -c 'renice -n 10 -p $PPID' >/dev/null 2>&1 || :
	steps=10 # so that their files are in order
	beside "vet" go vet ./...
	beside "staticcheck" go run "$staticcheck" ./...
	beside "vet for macOS" env GOOS=darwin GOARCH=arm64 go vet ./...
	beside "programs for Windows" programs_for windows amd64
	beside "programs for macOS" programs_for darwin arm64
}

# beside NAME COMMAND… runs a step and keeps what it says, and how it ends, for report.
beside() {
	steps=$((steps + 1))
	kept=$work/steps/$steps
	mkdir -p "$kept"
	echo "$1" >"$kept/name"
	shift
	status=0
	"$@" >"$kept/said" 2>&1 || status=$?
	echo "$status" >"$kept/status"
}

# report has the steps that ran beside the tests appear as if they ran now.
report() {
	for kept in "$work"/steps/*; do
		run "$(cat "$kept/name")" said "$kept"
	done
}

# said fails as the step did, and if the step was not brought to an end.
said() {
	cat "$1/said"
	[ -f "$1/status" ] || { echo "it did not end" && return 1; }
	return "$(cat "$1/status")"
}

skip() {
	echo "skipped: $1"
	skipped="$skipped [$1]"
}

die() {
	echo "test.sh: $1" >&2
	[ $# -lt 2 ] || echo "hint: $2" >&2
	exit 1
}

# tools finds what the tests need: a program, and the package that has it.
tools() {
	PATH=$PATH:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin
	packages=
	for need in git:git ssh:openssh-client sshd:openssh-server etcd:etcd-server ip:iproute2 \
		gcc:gcc shellcheck:shellcheck mandoc:mandoc git-lfs:git-lfs zsh:zsh fish:fish; do
		command -v "${need%%:*}" >/dev/null || packages="$packages ${need#*:}"
	done
	case " $packages " in
	*" gcc "*) packages="$packages libc6-dev" ;; # the race detector is linked with C
	esac
	if [ -n "$packages" ] && [ -f /etc/debian_version ] && [ "$(id -u)" = 0 ]; then
		echo "installing:$packages"
		# shellcheck disable=SC2086
		install_packages $packages || echo "could not install them"
	fi
	missing=
	for need in git go gcc; do
		command -v "$need" >/dev/null || missing="$missing $need"
	done
	[ -z "$missing" ] || die "missing:$missing" "install Go from https://go.dev/dl/, the rest from your system's packages"
	for need in ssh sshd etcd ip git-lfs zsh fish; do
		command -v "$need" >/dev/null || skip "tests that need $need, which is not installed"
	done
	git --version
	go version
}

install_packages() {
	# A package's own service must not start: it would take the ports and the
	# directories of a machine that only wants to test.
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		policy=/usr/sbin/policy-rc.d
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
	fi
	export DEBIAN_FRONTEND=noninteractive
	status=0
	{ apt-get -qq update && apt-get -qq -y install --no-install-recommends "$@"; } >&2 </dev/null || status=$?
	drop_policy
	return "$status"
}

drop_policy() {
	[ -z "$policy" ] || rm -f "$policy"
	policy=
}

# own_surroundings keeps this account's files and settings out of the tests.
own_surroundings() {
	# The programs are those that install.sh makes; only the race detector needs C.
	export CGO_ENABLED=0
	# Go's are asked for before HOME changes, since they follow from it.
	GOCACHE=$(go env GOCACHE) GOMODCACHE=$(go env GOMODCACHE) GOPATH=$(go env GOPATH) GOENV=$(go env GOENV)
	export GOCACHE GOMODCACHE GOPATH GOENV
	# Short, because the path of a Unix socket is.
	work=$(mktemp -d "$(fastest)/gct.XXXXXX")
	work=$(cd "$work" && pwd -P)
	mkdir -p "$work/home/.config/go/telemetry" "$work/tmp"
	chmod 755 "$work" # some tests look in as another account
	echo off >"$work/home/.config/go/telemetry/mode"
	for name in $(env | sed -n 's/^\(GIT_[A-Za-z0-9_]*\|XDG_[A-Z_]*\|SSH_[A-Z_]*\|NOTIFY_SOCKET\|EMAIL\)=.*/\1/p'); do
		unset "$name"
	done
	HOME=$work/home TMPDIR=$work/tmp GIT_CONFIG_NOSYSTEM=1
	export HOME TMPDIR GIT_CONFIG_NOSYSTEM
	# A test that commits must bring its own identity, not get one that Git
	# makes up from this machine's name. Go asks Git about this checkout, which
	# may belong to another account.
	git config --global user.useConfigOnly true
	git config --global --add safe.directory "$root"
}

# fastest is where the tests keep their files: in memory, if there is plenty, since
# nodes sync all they write, and what a disk loses tests find out by other means.
fastest() {
	shm=/dev/shm
	if [ "$(df -Pk "$shm" 2>/dev/null | awk 'NR == 2 { print int($4 / 1048576) }')" -ge 8 ] 2>/dev/null &&
		trial=$(mktemp "$shm/gct.XXXXXX" 2>/dev/null); then
		printf '#!/bin/sh\n' >"$trial"
		chmod 700 "$trial"
		"$trial" 2>/dev/null || shm=/tmp # it may be mounted so that nothing runs there
		rm -f "$trial"
		echo "$shm"
	else
		echo /tmp
	fi
}

format() {
	unformatted=$(find . -name .git -prune -o -name '*.go' -exec gofmt -l {} +)
	[ -z "$unformatted" ] || { echo "gofmt would change:" && echo "$unformatted" && return 1; }
}

scripts() {
	if ! command -v shellcheck >/dev/null; then
		skip "shellcheck, which is not installed"
		return 0
	fi
	find . -name .git -prune -o -name '*.sh' -exec shellcheck {} + && shellcheck .ci/run bench/run
}

manuals() {
	if ! command -v mandoc >/dev/null; then
		skip "mandoc, which is not installed"
		return 0
	fi
	complaints=$(mandoc -T lint -W warning man/*.1 2>/dev/null || :)
	[ -z "$complaints" ] || { echo "$complaints" && return 1; }
}

# programs_for builds the programs for another system, and vets what they are made
# of. On Windows git-cluster is a client alone.
programs_for() (
	export GOOS="$1" GOARCH="$2"
	mkdir -p "$work/programs/$GOOS"
	go build -o "$work/programs/$GOOS/" ./cmd/... &&
		go list -deps ./cmd/... | grep '^gitcluster/' | xargs go vet
)

# installation does what the README tells a newcomer to do, and undoes it.
installation() {
	prefix=$work/prefix
	mkdir "$prefix"
	PREFIX=$prefix DESTDIR='' ./install.sh --demo || return
	for program in cmd/*/; do
		name=$(basename "$program")
		[ -x "$prefix/bin/$name" ] || [ -x "$prefix/libexec/git-cluster/$name" ] || { echo "$program was not installed" && return 1; }
	done
	for file in bash-completion/completions/git-cluster zsh/site-functions/_git-cluster fish/vendor_conf.d/git-cluster.fish; do
		[ -s "$prefix/share/$file" ] || { echo "$file was not installed" && return 1; }
	done
	PREFIX=$prefix DESTDIR='' ./install.sh --uninstall || return
	rest=$(find "$prefix" ! -path "$prefix")
	[ -z "$rest" ] || { echo "left by --uninstall:" && echo "$rest" && return 1; }
}

# leftovers gives what is ending a few seconds to do so.
leftovers() {
	for _ in 1 2 3 4 5; do
		ours=$(still_running)
		[ -n "$ours" ] || return 0
		sleep 1
	done
	echo "still running:"
	echo "$ours"
	return 1
}

# still_running lists processes that were started in our directory, from it, or
# with it among their arguments; and with "environ", those that have it in their
# environment, as whatever we start has.
still_running() {
	if [ ! -d /proc/self ]; then
		ps -axww -o pid= -o command= | ours=$work/ awk 'index($0, ENVIRON["ours"])'
		return 0
	fi
	for process in /proc/[0-9]*; do
		seen=$(readlink "$process/cwd" "$process/exe" 2>/dev/null || :
			cat "$process/cmdline" ${1:+"$process/$1"} 2>/dev/null | tr '\0' ' ')
		case $seen in
		*"$work"*) echo "${process#/proc/} $seen" | tr '\n' ' ' && echo ;;
		esac
	done 2>/dev/null
}

clean_up() {
	drop_policy
	[ -z "$beside" ] || kill "$beside" 2>/dev/null || :
	[ -n "$work" ] || return 0
	# Only what names our directory, which is nobody else's.
	still_running environ | while read -r pid _; do kill -9 "$pid" 2>/dev/null || :; done
	# What has just been killed may still write.
	rm -rf "$work" 2>/dev/null || { sleep 1 && rm -rf "$work"; }
}

main "$@"
