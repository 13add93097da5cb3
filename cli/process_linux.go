package cli

import "syscall"

// endWithParent makes the system end the program when this one dies without a chance to do so.
func endWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGTERM }
