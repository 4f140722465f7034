// Package interop answers whether AWS's own programs get on with ours: it runs
// every kind of session with each mix of them, where they are installed.
//
// It is all test. Run it with make interop, as root, with
//
//	SALLYPORT_STOCK_PLUGIN     a session-manager-plugin of AWS's
//	SALLYPORT_STOCK_AGENT_DIR  a directory of amazon-ssm-agent's binaries
//
// All of it lives in a network namespace with nothing but loopback, and each
// agent in a mount namespace of its own, with an /etc, a /home
// and a /var/lib/amazon of its own, so that the ssm-user it makes, and the
// credentials it writes, are nowhere on the machine.
package interop
