package agentcmd

// CloseOnExec does nothing: a program on Windows is given the handles that are
// listed for it, and no others.
func CloseOnExec() {}
