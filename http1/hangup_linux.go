package http1

import "golang.org/x/sys/unix"

// pollHangUp asks poll whether the other side will send no more.
const pollHangUp = unix.POLLRDHUP
