# exec makes the app itself get the signals; `go run` would not pass them on. Several apps build at the same time, each its own file.
go build -o "${TMPDIR:-/tmp}/mtls-example-$1" main.go && exec "${TMPDIR:-/tmp}/mtls-example-$1" "$1"
