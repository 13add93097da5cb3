#!/bin/sh
# Fetches the Kafka broker that the tests run against: its jars from Maven
# Central into the user's cache directory, by Maven and with Java, which it
# installs first where apt-get can (Debian, Ubuntu; root, or sudo that asks for
# no password). It never fails the build: without the jars the tests of Kafka
# skip themselves and say so.
set -u

version=4.1.0
scala=2.13

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/outrigger/test-servers/kafka
jars=$cache/$version

skipped() {
	echo "setup: kafka: missing ($1); its tests will be skipped; to run them: install Java 17 or later and Maven, and run test/setup/kafka.sh"
	exit 0
}

has() { command -v "$1" >/dev/null; }

# install PACKAGE: with apt-get, quietly.
install() {
	has apt-get || return 1
	if [ "$(id -u)" -eq 0 ]; then
		set -- env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "$1"
	elif has sudo && sudo -n true 2>/dev/null; then
		set -- sudo -n env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "$1"
	else
		return 1
	fi
	"$@" </dev/null >/dev/null 2>&1
}

# archive: what the broker's JVM loads at its start, made once so that each start takes half the time (class data sharing). Its
# JVM ignores one that does not fit. Without it everything works as well.
archive() {
	[ -f "$jars/broker.jsa" ] && return
	room=$(mktemp -d "$cache/archive-XXXXXX") || return
	cat >"$room/server.properties" <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:29093
controller.listener.names=CONTROLLER
listeners=PLAIN://127.0.0.1:29092,CONTROLLER://127.0.0.1:29093
listener.security.protocol.map=PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAIN
log.dirs=$room/data
END
	quiet=-Dorg.slf4j.simpleLogger.defaultLogLevel=warn
	if java -cp "$jars/*" $quiet kafka.tools.StorageTool format -t b3V0cmlnZ2VyLXRlc3QtMQ -c "$room/server.properties" >"$room/log" 2>&1; then
		java -XX:ArchiveClassesAtExit="$room/broker.jsa" -XX:+UseSerialGC -Xmx256m -cp "$jars/*" $quiet \
			-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info kafka.Kafka "$room/server.properties" >>"$room/log" 2>&1 &
		broker=$!
		trap 'kill -9 $broker 2>/dev/null; rm -rf "$room"; exit 1' HUP INT TERM
		tries=0
		until grep -q "Kafka Server started" "$room/log" || [ $tries -ge 60 ] || ! kill -0 $broker 2>/dev/null; do
			tries=$((tries + 1))
			sleep 1
		done
		kill $broker 2>/dev/null
		wait $broker
		trap 'exit 1' HUP INT TERM
		[ -f "$room/broker.jsa" ] && mv "$room/broker.jsa" "$jars/broker.jsa"
	fi
	rm -rf "$room"
}

has java || install default-jre-headless && has java || skipped "no java"
if [ -d "$jars" ]; then
	archive
	echo "setup: kafka: $version already fetched"
	exit 0
fi
has mvn || install maven && has mvn || skipped "no mvn"

mkdir -p "$cache" || skipped "cannot write $cache"
work=$(mktemp -d "$cache/fetch-XXXXXX") || skipped "cannot write $cache"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$work/pom.xml" <<END
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>dev.outrigger.test</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_$scala</artifactId><version>$version</version></dependency>
    <!-- so that the broker's warnings are seen -->
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
END
mvn -B -q -f "$work/pom.xml" dependency:copy-dependencies -DoutputDirectory="$work/jars" -DincludeScope=runtime </dev/null >"$work/log" 2>&1 ||
	skipped "mvn failed: $(grep -m 1 ERROR "$work/log" || tail -n 1 "$work/log")"
# By a rename, so that the jars are complete or absent. Another run may have been faster.
mv -T "$work/jars" "$jars" 2>/dev/null || [ -d "$jars" ] || mv "$work/jars" "$jars" 2>/dev/null || skipped "cannot write $jars"
archive
echo "setup: kafka: $version fetched"
exit 0
