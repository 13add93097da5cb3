#!/bin/sh
# Installs the servers that the tests run against: Redis (with its sentinel),
# PostgreSQL, MariaDB, RabbitMQ, Mosquitto, and the servers of OpenSSH and of
# aiosmtpd. On Debian and Ubuntu, as root or with sudo that asks
# for no password, with apt-get; elsewhere it says what is missing. It never
# fails the build: a test whose server is missing skips itself and says so.
#
# The tests start servers of their own, so nothing is left running: services
# are kept from starting while packages are installed, and those of packages
# that this script installed are stopped and not started at boot.
set -u

# One server a line: package, service (- for none), and what tells that it is there.
servers='redis-server redis-server redis
postgresql postgresql postgresql
mariadb-server mariadb mariadb
rabbitmq-server rabbitmq-server rabbitmq
mosquitto mosquitto mosquitto
openssh-server ssh sshd
python3-aiosmtpd - aiosmtpd'

# Programs may be where the PATH of an ordinary user does not lead.
PATH=$PATH:/usr/sbin:/usr/local/sbin

# has KIND: whether the programs that the tests run are there.
has() {
	case $1 in
	redis) command -v redis-server >/dev/null ;;
	postgresql)
		for bin in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin; do
			[ -x "$bin/initdb" ] && [ -x "$bin/postgres" ] && return 0
		done
		command -v initdb >/dev/null && command -v postgres >/dev/null
		;;
	mariadb) command -v mariadbd >/dev/null && command -v mariadb-install-db >/dev/null ;;
	rabbitmq) [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null ;;
	mosquitto) command -v mosquitto >/dev/null && command -v mosquitto_passwd >/dev/null ;;
	sshd) command -v sshd >/dev/null ;;
	aiosmtpd) /usr/bin/python3 -c 'import aiosmtpd' 2>/dev/null ;;
	esac
}

# An S3 server that no distribution has: it is built once, which takes a minute or
# two, and kept where the tests look for it.
versitygw=v1.8.0
bin=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/outrigger/test-servers/bin
if command -v versitygw >/dev/null || [ -x "$bin/versitygw" ]; then
	echo "setup: versitygw: already installed"
elif ! command -v go >/dev/null; then
	echo "setup: versitygw: missing (no go here); its tests will be skipped"
elif mkdir -p "$bin" && why=$(GOBIN=$bin go install -ldflags '-s -w' "github.com/versity/versitygw/cmd/versitygw@$versitygw" 2>&1); then
	echo "setup: versitygw: installed in $bin"
else
	echo "setup: versitygw: could not be built, so its tests will be skipped: $(printf '%s' "${why:-}" | tail -n 1)"
fi

missing=
while read -r package _ kind; do
	if has "$kind"; then
		echo "setup: $package: already installed"
	else
		missing="$missing $package"
	fi
done <<END
$servers
END
[ -n "$missing" ] || exit 0

skipped() {
	for package in $missing; do
		echo "setup: $package: missing ($1); its tests will be skipped; to run them: apt-get install $package, or what your system calls it"
	done
	exit 0
}

command -v apt-get >/dev/null || skipped "no apt-get here"
if [ "$(id -u)" -eq 0 ]; then
	as_root() { env "$@"; }
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	as_root() { sudo -n env "$@"; }
else
	skipped "not root, and sudo asks for a password"
fi

# Debian's tools ask this program whether a service may be started; 101 is no.
# One that is there already may say yes, so ours takes its place meanwhile. Ours
# names itself, so that runs side by side, or one cut short, never lose another's.
policy=/usr/sbin/policy-rc.d
aside=$policy.before-outrigger
mark='outrigger test setup'
log=$(mktemp)
exists() { [ -e "$1" ] || [ -L "$1" ]; }
restore() {
	if exists "$aside"; then
		as_root mv -f "$aside" "$policy"
	elif grep -qs "$mark" "$policy"; then
		as_root rm -f "$policy"
	fi
	rm -f "$log"
}
trap restore EXIT
trap 'exit 1' HUP INT TERM
if exists "$policy" && ! grep -qs "$mark" "$policy"; then
	as_root mv -f "$policy" "$aside" || skipped "cannot write $policy"
fi
printf '#!/bin/sh\n# %s\nexit 101\n' "$mark" | as_root tee "$policy" >/dev/null && as_root chmod 755 "$policy" || skipped "cannot write $policy"

apt() {
	as_root DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" </dev/null >"$log" 2>&1
}

apt update || echo "setup: apt-get update failed, going on with the package lists that are there: $(tail -n 1 "$log")"
while read -r package service kind; do
	case " $missing " in *" $package "*) ;; *) continue ;; esac
	if ! apt install --no-install-recommends "$package" || ! has "$kind"; then
		echo "setup: $package: could not be installed, so its tests will be skipped: $(tail -n 1 "$log")"
		continue
	fi
	if [ "$service" = - ]; then
		echo "setup: $package: installed, it has no service"
		continue
	elif [ -d /run/systemd/system ]; then
		as_root systemctl disable --now "$service" >/dev/null 2>&1
	else
		as_root service "$service" stop >/dev/null 2>&1
		as_root update-rc.d "$service" disable >/dev/null 2>&1
	fi
	# Erlang's port mapper is started by the package's own scripts; it refuses to end while it is in use.
	[ "$kind" != rabbitmq ] || as_root epmd -kill >/dev/null 2>&1
	echo "setup: $package: installed, its service left stopped"
done <<END
$servers
END
exit 0
