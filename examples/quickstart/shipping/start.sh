# exec makes the app itself get the signals; `go run` would not pass them on.
go build -o shipping main.go && exec ./shipping
