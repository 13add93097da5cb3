#!/bin/sh
# Installs the JDK and Maven that the suite of the Java SDK needs, where apt-get
# can (Debian, Ubuntu; root, or sudo that asks for no password). What is there
# already stays as it is. It never fails the build: without a JDK of Java 17 or
# later and Maven the suite skips itself and says so.
set -u

skipped() {
	echo "setup: java: missing ($1); the suite of the Java SDK will be skipped; to run it: install a JDK of Java 17 or later and Maven"
	exit 0
}

has() { command -v "$1" >/dev/null; }

missing=
has javac || missing=default-jdk-headless
has mvn || missing="$missing maven"
if [ -z "$missing" ]; then
	echo "setup: java: already installed"
	exit 0
fi
has apt-get || skipped "no apt-get here"
if [ "$(id -u)" -eq 0 ]; then
	as_root() { env "$@"; }
elif has sudo && sudo -n true 2>/dev/null; then
	as_root() { sudo -n env "$@"; }
else
	skipped "not root, and sudo asks for a password"
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 1' HUP INT TERM
apt() {
	as_root DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" </dev/null >"$log" 2>&1
}

apt update || echo "setup: apt-get update failed, going on with the package lists that are there: $(tail -n 1 "$log")"
for package in $missing; do
	apt install --no-install-recommends "$package" || skipped "$package could not be installed: $(tail -n 1 "$log")"
done
has javac && has mvn || skipped "javac or mvn is not on the PATH after $missing was installed"
echo "setup: java: installed$(printf ' %s' $missing)"
exit 0
