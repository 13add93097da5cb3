#!/bin/sh
# Fetches the Zipkin server that the tests send spans to: its jar (slim, with
# storage in memory) from Maven Central into the user's cache directory, by
# Maven. It runs with Java, which test/setup/kafka.sh installs along with Maven
# where it can. It never fails the build: without the jar the tests of Zipkin
# skip themselves and say so.
set -u

version=3.5.1
sum=7956e7f2c64b7073e1362b81e697fceb5fe61e121ad3cb48d545461026964b0f

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/outrigger/test-servers/zipkin
jar=$cache/zipkin-$version.jar

skipped() {
	echo "setup: zipkin: missing ($1); its tests will be skipped; to run them: install Java 17 or later and Maven, and run test/setup/zipkin.sh"
	exit 0
}

command -v java >/dev/null || skipped "no java"
if [ -f "$jar" ]; then
	echo "setup: zipkin: $version already fetched"
	exit 0
fi
command -v mvn >/dev/null || skipped "no mvn"

mkdir -p "$cache" || skipped "cannot write $cache"
work=$(mktemp -d "$cache/fetch-XXXXXX") || skipped "cannot write $cache"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mvn -B -q org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -Dartifact="io.zipkin:zipkin-server:$version:jar:slim" -DoutputDirectory="$work/jars" </dev/null >"$work/log" 2>&1 ||
	skipped "mvn failed: $(grep -m 1 ERROR "$work/log" || tail -n 1 "$work/log")"
fetched=$work/jars/zipkin-server-$version-slim.jar
[ "$(sha256sum "$fetched" | cut -d ' ' -f 1)" = "$sum" ] || skipped "the jar that came is not the one that was to come"
mv "$fetched" "$jar" || skipped "cannot write $cache"
echo "setup: zipkin: $version fetched"
exit 0
