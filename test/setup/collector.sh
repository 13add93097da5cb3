#!/bin/sh
# Builds the OpenTelemetry collector that the tests send spans to, from
# test/collector, into the user's cache directory. It takes about half a minute
# and is done again when its sources change. It never fails the build: without
# it the tests of OTLP skip themselves and say so.
set -u

cd "$(dirname "$0")/../collector" || exit 0
bin=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/outrigger/test-servers/bin
program=$bin/otlp-collector

skipped() {
	echo "setup: collector: missing ($1); its tests will be skipped; to run them: test/setup/collector.sh"
	exit 0
}

if [ -x "$program" ] && [ -z "$(find . -type f -newer "$program")" ]; then
	echo "setup: collector: already built"
	exit 0
fi
command -v go >/dev/null || skipped "no go here"
mkdir -p "$bin" || skipped "cannot write $bin"
work=$(mktemp -d "$bin/build-XXXXXX") || skipped "cannot write $bin"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
why=$(CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/otlp-collector" . 2>&1) || skipped "it could not be built: $(printf '%s' "$why" | tail -n 1)"
touch "$work/otlp-collector"
mv "$work/otlp-collector" "$program" || skipped "cannot write $bin"
echo "setup: collector: built"
exit 0
