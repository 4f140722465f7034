// Package simulation runs the server, the agent and a client, the real ones, in
// one process and in no time, on a network and a disk that fail as a seed says.
// A [World] is all of them; call [NewWorld] in a bubble of testing/synctest.
//
//	client ──▶ Network ──▶ server ──▶ Disk (logs and recordings)
//	             ▲           └──────▶ SQLite, real
//	           agent ──▶ Machine (programs, terminals, ports)
//
// A [Network] carries bytes as TCP does: late, or not at all, and never out of
// order. Connections are cut, lost silently and refused; links stall. A [Disk]
// fills up, and forgets what was not synced in a crash. A killed server leaves
// the database as of its last commit, and a killed agent no program. TLS is
// spoken, as outside.
//
// The seed decides the faults and the input. It does not decide which of two
// things that happen at once comes first: the event [Log] of a failed run says
// what happened.
//
// The package is for tests, its own above all: scripted scenarios, and random
// runs after which what every party was told is compared with what is true.
package simulation
