# exec makes the app itself get the signals; `go run` would not pass them on. Both apps build at the same time, each its own file.
go build -o "${TMPDIR:-/tmp}/actors-example-$1" main.go && exec "${TMPDIR:-/tmp}/actors-example-$1" "$1"
