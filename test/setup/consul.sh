#!/bin/sh
# Builds the Consul agent that the tests of name resolution run against, from the
# module in test/consul, into the user's cache directory. It takes some minutes and
# is done again when the module changes. It never fails the build: without it the
# tests that want a real agent skip themselves and say so.
set -u

cd "$(dirname "$0")/../consul" || exit 0
bin=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/outrigger/test-servers/bin
program=$bin/consul

skipped() {
	echo "setup: consul: missing ($1); its tests will be skipped; to run them: test/setup/consul.sh, or have consul on the PATH"
	exit 0
}

if command -v consul >/dev/null; then
	echo "setup: consul: already installed"
	exit 0
fi
if [ -x "$program" ] && [ -z "$(find . -type f -newer "$program")" ]; then
	echo "setup: consul: already built"
	exit 0
fi
command -v go >/dev/null || skipped "no go here"
mkdir -p "$bin" || skipped "cannot write $bin"
work=$(mktemp -d "$bin/build-XXXXXX") || skipped "cannot write $bin"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
why=$(CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/consul" github.com/hashicorp/consul 2>&1) || skipped "it could not be built: $(printf '%s' "$why" | tail -n 1)"
touch "$work/consul"
mv "$work/consul" "$program" || skipped "cannot write $bin"
echo "setup: consul: built"
exit 0
