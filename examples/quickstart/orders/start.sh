# Starts app.py, or its twin main.go where there is no Python. exec makes the app itself get the signals; `go run` would not pass them on.
command -v python3 >/dev/null && exec python3 -u app.py
go build -o orders main.go && exec ./orders
