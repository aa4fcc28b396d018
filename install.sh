#!/bin/sh
# Builds the programs of this checkout and installs them for `git` to find.
#
#   ./install.sh               install to PREFIX
#   ./install.sh --demo        install, then run `git-cluster demo` from there
#   ./install.sh --uninstall   remove what an earlier run installed
#
# PREFIX is /usr/local if that is writable, else ~/.local. With DESTDIR all goes
# below that directory, for packaging. Nothing outside PREFIX is changed: no
# configuration of Git or of a shell is edited, and no other account is used.
#
# The text is functions up to the last line, so that half a file does nothing.

set -eu

usage="usage: ./install.sh [--demo | --uninstall]     (PREFIX and DESTDIR from the environment)"
min_go=1.21    # the first that can fetch the version go.mod asks for
min_git=2.36   # the first with core.fsync

main() {
	action=install
	case $# in
	0) ;;
	1)
		case $1 in
		--demo) action=demo ;;
		--uninstall) action=uninstall ;;
		-h | --help) echo "$usage" && exit 0 ;;
		*) misuse ;;
		esac
		;;
	*) misuse ;;
	esac

	src=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
	umask 022
	choose_prefix
	manifest=$root/share/git-cluster/manifest
	if [ "$action" = uninstall ]; then
		uninstall
		exit 0
	fi

	check_go
	check_git
	check_writable
	work=$(mktemp -d "${TMPDIR:-/tmp}/git-cluster-install.XXXXXX")
	trap 'clean_up' EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	build
	install_all
	say_where
	if [ "$action" = demo ]; then
		echo
		clean_up
		trap - EXIT HUP INT TERM
		exec "$root/bin/git-cluster" demo
	fi
}

misuse() {
	echo "$usage" >&2
	exit 2
}

# die MESSAGE [WHAT TO DO]
die() {
	echo "install.sh: $1" >&2
	[ $# -lt 2 ] || echo "hint: $2" >&2
	exit 1
}

# choose_prefix sets prefix, and root, which is where prefix is now.
choose_prefix() {
	if [ -n "${PREFIX:-}" ]; then
		prefix=$PREFIX
	elif [ -n "${DESTDIR:-}" ] || writable /usr/local/bin && writable /usr/local/share; then
		prefix=/usr/local
	elif [ -n "${HOME:-}" ]; then
		prefix=$HOME/.local
	else
		die "/usr/local is not writable and HOME is not set" "name a directory: PREFIX=/some/where ./install.sh"
	fi
	case $prefix in
	/*) ;;
	*) die "PREFIX is '$prefix'" "it must be an absolute path" ;;
	esac
	case ${DESTDIR:-/} in
	/*) ;;
	*) die "DESTDIR is '$DESTDIR'" "it must be an absolute path" ;;
	esac
	prefix=$(trim "$prefix")
	root=$(trim "${DESTDIR:-}")$prefix
}

trim() {
	trimmed=$1
	while [ "${trimmed%/}" != "$trimmed" ]; do trimmed=${trimmed%/}; done
	echo "$trimmed"
}

# writable PATH: whether it can be written to, or be made if it is not there.
writable() {
	nearest=$1
	while [ ! -e "$nearest" ] && [ -n "$nearest" ]; do nearest=${nearest%/*}; done
	[ -w "${nearest:-/}" ]
}

check_go() {
	if ! command -v go >/dev/null; then
		if [ -x /usr/local/go/bin/go ]; then
			die "go is not in PATH" "it is in /usr/local/go/bin: PATH=\$PATH:/usr/local/go/bin ./install.sh"
		fi
		die "Go is not installed, and the programs are built here" "install Go $min_go or newer: https://go.dev/dl/"
	fi
	# Asked outside this module, Go tells what is installed and fetches nothing.
	go_version=$(cd / && GOTOOLCHAIN=local go version) || die "go does not work" "see what 'go version' says"
	if ! at_least "$go_version" "$min_go"; then
		die "$go_version is too old" "install Go $min_go or newer: https://go.dev/dl/"
	fi
	wanted=$(sed -n 's/^go //p' "$src/go.mod")
	if ! at_least "$go_version" "$wanted" && [ "$(cd / && go env GOTOOLCHAIN)" = local ]; then
		die "$go_version is older than the $wanted this needs, and may not fetch that itself" \
			"let it: GOTOOLCHAIN=auto ./install.sh"
	fi
}

check_git() {
	command -v git >/dev/null || die "Git is not installed" "install Git $min_git or newer"
	git_version=$(git --version) || die "git does not work" "see what 'git --version' says"
	at_least "$git_version" "$min_git" || die "$git_version is too old" "install Git $min_git or newer"
}

# at_least TEXT MAJOR.MINOR…: whether the first version number in TEXT is that
# or newer. A text without one, as of a development build, passes.
at_least() {
	have=$(echo "$1" | sed 's/^[^0-9]*//; s/[^0-9.].*//')
	have_major=${have%%.*} have_minor=${have#*.}
	want_major=${2%%.*} want_minor=${2#*.}
	have_minor=${have_minor%%.*} want_minor=${want_minor%%.*}
	[ -n "$have_major" ] && [ -n "$have_minor" ] || return 0
	[ "$have_major" -gt "$want_major" ] ||
		{ [ "$have_major" -eq "$want_major" ] && [ "$have_minor" -ge "$want_minor" ]; }
}

# check_writable comes before the build, which takes minutes the first time.
check_writable() {
	for dir in bin libexec share/man/man1 share/git-cluster; do
		writable "$root/$dir" || die "$root/$dir is not writable" \
			"choose another place, for example: PREFIX=\$HOME/.local ./install.sh"
	done
}

clean_up() {
	[ -z "${work:-}" ] || rm -rf "$work"
	[ -z "${incoming:-}" ] || rm -f "$incoming"
}

# build fills $work/tree with what belongs below PREFIX.
build() {
	tree=$work/tree
	mkdir -p "$tree/bin" "$tree/share/man/man1"
	release=$(release)
	echo "Building git-cluster${release:+ $release}; the first time this downloads and compiles its libraries."
	(
		cd "$src"
		# What is built is this checkout, for this machine. The release is given
		# here, so Go need not ask Git, which refuses a checkout of another account.
		unset GOOS GOARCH
		CGO_ENABLED=0 GOWORK=off go build -trimpath -buildvcs=false \
			-ldflags "-s -w -X gitcluster/internal/version.release=$release" \
			-o "$tree/bin/" ./cmd/...
	) || die "the build failed; Go says why above" \
		"the first build needs the Go module proxy; see 'go env GOPROXY' if it cannot be reached"
	# It is for nodes to run, not for people.
	mkdir -p "$tree/libexec/git-cluster"
	mv "$tree/bin/git-cluster-hook" "$tree/libexec/git-cluster/"
	cp "$src"/man/*.1 "$tree/share/man/man1/"
	completion bash share/bash-completion/completions/git-cluster
	completion zsh share/zsh/site-functions/_git-cluster
	completion fish share/fish/vendor_conf.d/git-cluster.fish
}

# release prints what this checkout is called, or nothing.
release() {
	name=
	if [ -e "$src/.git" ]; then
		name=$(git -C "$src" describe --tags --always --dirty 2>/dev/null) || name=
	elif [ -f "$src/VERSION" ]; then
		name=$(sed 1q "$src/VERSION")
	fi
	# It becomes part of an argument list.
	case $name in
	*[!A-Za-z0-9._+/-]*) name= ;;
	esac
	echo "$name"
}

completion() {
	mkdir -p "$tree/$(dirname "$2")"
	"$tree/bin/git-cluster" completion "$1" >"$tree/$2"
}

# install_all copies the tree below PREFIX. The manifest comes first, with all
# that was there and all that will be, so that even an install which is cut
# short can be removed. A line of it is a file, or a directory that was made
# here, with a slash at its end; all are relative to PREFIX.
install_all() {
	new=$work/new old=$work/old all=$work/all
	(cd "$tree" && find . -type f | sed 's,^\./,,' && echo share/git-cluster/manifest) | sort >"$new"
	: >"$old"
	[ ! -f "$manifest" ] || cp "$manifest" "$old"
	missing_directories >"$work/directories"
	sort -u "$old" "$new" "$work/directories" >"$all"
	put "$all" share/git-cluster/manifest 644

	while read -r file; do
		case $file in
		share/git-cluster/manifest) ;;
		bin/* | libexec/*) put "$tree/$file" "$file" 755 ;;
		*) put "$tree/$file" "$file" 644 ;;
		esac
	done <"$new"

	# What an older version had and this one has not.
	grep -v '/$' "$old" | sort | comm -23 - "$new" >"$work/gone" || :
	while read -r file; do
		! safe "$file" || rm -f "$root/$file"
	done <"$work/gone"
	grep -v '/$' "$all" | comm -12 - "$new" >"$work/files"
	{ cat "$work/files" && { grep '/$' "$all" || :; }; } >"$work/manifest"
	put "$work/manifest" share/git-cluster/manifest 644
}

# put FROM TO MODE: the file is the old one or the new one at every moment, also
# while it runs.
put() {
	mkdir -p "$root/$(dirname "$2")"
	incoming=$root/$(dirname "$2")/.$(basename "$2").new.$$
	cp "$1" "$incoming"
	chmod "$3" "$incoming"
	mv -f "$incoming" "$root/$2"
	incoming=
}

# missing_directories lists the directories that will be made below PREFIX.
missing_directories() {
	while read -r file; do
		dir=$(dirname "$file")
		while [ "$dir" != . ]; do
			[ -d "$root/$dir" ] || echo "$dir/"
			dir=$(dirname "$dir")
		done
	done <"$new" | sort -u
}

# safe LINE: whether a line of a manifest stays below PREFIX. A manifest that
# somebody has changed must not make us remove anything else.
safe() {
	case /$1/ in
	// | //* | */../* | */./*) return 1 ;;
	esac
}

uninstall() {
	[ -f "$manifest" ] || die "nothing is installed below $root: there is no share/git-cluster/manifest" \
		"name the PREFIX it was installed to: PREFIX=/some/where ./install.sh --uninstall"
	entries=$(sort -r "$manifest")
	# The manifest goes last, so that what is cut short can be done again.
	echo "$entries" | while read -r file; do
		case $file in
		*/ | share/git-cluster/manifest) ;;
		*) if safe "$file"; then rm -f "$root/$file"; else echo "install.sh: left alone: $file" >&2; fi ;;
		esac
	done
	rm -f "$manifest"
	# Deeper directories sort after their parents, so here they come first. One
	# that others use is not empty and stays.
	echo "$entries" | while read -r dir; do
		case $dir in
		*/) ! safe "${dir%/}" || rmdir "$root/$dir" 2>/dev/null || : ;;
		esac
	done
	echo "Removed git-cluster from $root."
}

say_where() {
	echo "Installed in $root:"
	for program in "$tree"/bin/*; do
		name=${program##*/}
		"$root/bin/$name" --version </dev/null >"$work/version" 2>&1 ||
			die "$root/bin/$name does not start: $(sed 1q "$work/version")"
		echo "  $name"
	done
	[ -z "${DESTDIR:-}" ] || return 0
	absent='' hidden=''
	for program in "$tree"/bin/*; do
		name=${program##*/}
		found=$(command -v "$name" || :)
		if [ -z "$found" ]; then
			absent=yes
		elif ! cmp -s "$found" "$root/bin/$name"; then
			hidden=yes
			echo "install.sh: $found comes before $root/bin/$name in PATH" >&2
		fi
	done
	if [ -n "$absent" ]; then
		echo "$root/bin is not in PATH, so Git does not find them yet. Add it, in this shell and in its profile:"
		# The line is for a shell to expand, later.
		# shellcheck disable=SC2016
		printf '  export PATH="%s:$PATH"\n' "$root/bin"
	elif [ -z "$hidden" ]; then
		echo "Git finds them: try \`git cluster demo\`."
	fi
}

main "$@"
