package client

// An escape watches what is typed for commands to this program: a tilde at the
// start of a line and one more character, as in OpenSSH and, since 1.2.835, in
// session-manager-plugin.
//
// The tilde is held back until the next character shows what it was.
type escape struct {
	off   bool // by ~-
	line  bool // something has been typed on this line
	tilde bool // a tilde is held back
}

// What an escape may command.
const (
	escapeLeave = '.'
	escapeHelp  = '?'
	escapeOff   = '-'
)

const escapeHelpText = `escapes, at the start of a line:
  ~.  leave, which ends the session
  ~?  this text
  ~-  take no more escapes
  ~~  send one tilde`

// paste is the least that is taken for a paste when it is read at once. People
// type a character at a time, or a few where the line is slow. A paste may have
// ~. at the start of a line and mean nothing by it, so nothing in one is a
// command.
const paste = 4

// filter appends to dst what of p is to be sent, and returns the commands in p.
// What follows ~. is dropped.
func (e *escape) filter(dst, p []byte) (out, commands []byte) {
	if e.off || len(p) >= paste {
		if e.tilde {
			dst = append(dst, '~')
			e.tilde = false
		}
		if len(p) > 0 {
			e.line = !endsLine(p[len(p)-1])
		}
		return append(dst, p...), nil
	}
	for _, c := range p {
		switch {
		case e.tilde:
			e.tilde = false
			switch c {
			case escapeLeave:
				return dst, append(commands, c)
			case escapeHelp:
				commands = append(commands, c)
				continue
			case escapeOff:
				e.off = true
				commands = append(commands, c)
				continue
			case '~':
			default:
				dst = append(dst, '~')
			}
			dst = append(dst, c)
			e.line = !endsLine(c)
		case c == '~' && !e.line && !e.off:
			e.tilde = true
		default:
			dst = append(dst, c)
			e.line = !endsLine(c)
		}
	}
	return dst, commands
}

func endsLine(c byte) bool { return c == '\r' || c == '\n' }
