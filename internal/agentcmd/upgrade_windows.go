package agentcmd

import (
	"io"

	"github.com/sallyport/sallyport/internal/agent"
)

const upgradeHelp = ""

// upgradeOnHangUp does nothing: Windows knows neither hang-ups nor a program
// that becomes another.
func upgradeOnHangUp(*agent.Agent, func(), io.Writer) (only bool, err error) { return false, nil }
