package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/strictjson"
	"github.com/sallyport/sallyport/internal/wire"
)

// message acts on one message of the node's. An error ends the session.
func (r *run) message(ctx context.Context, m datachannel.Message) error {
	switch m.Kind {
	case wire.KindHandshakeRequest:
		return r.handshake(ctx, m.Payload)
	case wire.KindHandshakeComplete:
		if !r.shaking.Load() {
			return nil
		}
		var done wire.HandshakeComplete
		strictjson.Unmarshal(m.Payload, &done) // nothing in it has to be there
		if r.cipher != nil && !r.Stock {
			if r.where() != farCommand {
				r.notice("this session is encrypted from here to the node: its recording has nothing of what is shown")
			}
		} else if done.CustomerMessage != "" && (r.Stock || r.where() != farCommand) { // whose stderr is its own
			r.customerMessage(done.CustomerMessage)
		}
		r.shaking.Store(false)
		if r.where() == farShell {
			r.sendSize(ctx, wire.Size{}) // the first was thrown away, if the agent is AWS's
		}
		r.begin()
		if r.where() == farForward { // last: a person who reads that the port is open may press Ctrl-C
			if err := r.openPort(ctx); err != nil {
				r.leave(ctx, err)
				return err
			}
		}
		return nil
	case wire.KindFlag:
		if f, err := wire.ReadFlag(m.Payload); err == nil && f == wire.FlagConnectToPortError && r.where() == farForward {
			r.refused()
		}
		return nil
	case wire.KindEncChallengeRequest:
		return r.challenged(ctx, m.Payload)
	}
	if r.Forward != nil && r.where() != farForward {
		return errNoPort
	}
	if r.where() == farForward {
		if m.Kind == wire.KindOutput && !r.shaking.Load() {
			r.port.take(ctx, m.Payload)
		}
		return nil
	}

	// A plain shell has no handshake: that it shows something is what says
	// that it is there.
	if !r.shaking.Load() {
		r.begin()
	}
	out := r.Stdout
	switch {
	case r.Stock: // AWS's plugin shows all kinds of output
	case m.Kind == wire.KindStdErr:
		out = r.Stderr
	case m.Kind == wire.KindExitCode:
		if n, ok := exitCode(m.Payload); ok {
			r.mu.Lock()
			r.exit = &n
			r.mu.Unlock()
			return nil
		}
	}
	if _, err := out.Write(m.Payload); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	r.shown.Store(int64(time.Since(r.started)))
	return nil
}

// begin lets through what was typed.
func (r *run) begin() { r.once.Do(func() { close(r.ready) }) }

// exitCode reads "EXIT_CODE: 3".
func exitCode(p []byte) (int, bool) {
	text, ok := strings.CutPrefix(strings.TrimSpace(string(p)), "EXIT_CODE:")
	n, err := strconv.Atoi(strings.TrimSpace(text))
	return n, ok && err == nil
}

func (r *run) customerMessage(text string) {
	text = sallyport.Printable(text)
	if !r.Stock {
		r.notice(text)
		return
	}
	end := "\n"
	if r.term.isRaw() && r.term.out != nil {
		end = "\r\n"
	}
	fmt.Fprint(r.Stdout, text+end)
}

// errNoPort is for a handshake of another kind of session than was asked for.
var errNoPort = errors.New("this session does not forward a port")

// handshake answers a HandshakeRequest. An action that is not a success makes
// the agent end the session; why is said here too, because an agent's own words
// for it are about handshakes.
func (r *run) handshake(ctx context.Context, payload []byte) error {
	var req wire.HandshakeRequest
	if err := strictjson.Unmarshal(payload, &req); err != nil {
		return fmt.Errorf("read the node's handshake: %w", err)
	}
	if r.shook {
		return errors.New("the node began a second handshake")
	}
	r.shook = true
	r.shaking.Store(true)
	resp, failed := r.answer(ctx, req)
	text, err := json.Marshal(resp)
	if err != nil {
		return fmt.Errorf("write handshake: %w", err)
	}
	if err := r.stream.SendMessage(ctx, wire.KindHandshakeResponse, text); err != nil {
		return nil // the session has ended, and its cause is known already
	}
	if failed != nil {
		// The agent may as well know before the session is gone.
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		r.stream.Flush(ctx)
	}
	return failed
}

func (r *run) answer(ctx context.Context, req wire.HandshakeRequest) (resp wire.HandshakeResponse, failed error) {
	resp.ClientVersion = sallyport.WirePluginVersion
	for _, asked := range req.RequestedClientActions {
		done := wire.ProcessedClientAction{ActionType: asked.ActionType, ActionStatus: wire.ActionSuccess, ActionResult: json.RawMessage("null")}
		if status, err := r.act(ctx, asked, &done.ActionResult); err != nil {
			done.ActionStatus, done.Error = status, err.Error()
			resp.Errors = append(resp.Errors, err.Error())
			if failed == nil {
				failed = err
			}
		}
		resp.ProcessedClientActions = append(resp.ProcessedClientActions, done)
	}
	switch r.where() {
	case farCommand:
		if slices.Contains(req.Capabilities, wire.CapStdin) {
			r.stdin.Store(true)
			resp.Capabilities = []string{wire.CapStdin}
		} else if r.Input && failed == nil {
			failed = errNoInput
			for i := range resp.ProcessedClientActions { // so that the command does not start
				resp.ProcessedClientActions[i].ActionStatus, resp.ProcessedClientActions[i].Error = wire.ActionFailed, failed.Error()
			}
		}
	case farForward:
		r.port.agent = req.AgentVersion
		if slices.Contains(req.Capabilities, wire.CapMux2) {
			r.port.own = true
			resp.Capabilities = []string{wire.CapMux2}
		}
	}
	return resp, failed
}

// act does what is asked, and sets the result if there is one.
func (r *run) act(ctx context.Context, asked wire.RequestedClientAction, result *json.RawMessage) (wire.ActionStatus, error) {
	switch asked.ActionType {
	case wire.ActionSessionType:
		var kind wire.SessionTypeRequest
		if err := strictjson.Unmarshal(asked.ActionParameters, &kind); err != nil {
			return wire.ActionFailed, fmt.Errorf("the node's handshake does not say what kind of session this is: %w", err)
		}
		if r.Forward != nil && kind.SessionType != "Port" {
			return wire.ActionFailed, errNoPort
		}
		switch kind.SessionType {
		case "Standard_Stream", "InteractiveCommands":
			return wire.ActionSuccess, nil
		case "NonInteractiveCommands":
			r.reach(farCommand)
			return wire.ActionSuccess, nil
		case "Port":
			return r.actPort(kind.Properties)
		}
		return wire.ActionFailed, fmt.Errorf("the node wants a session of type %q, which is none", sallyport.Clip(kind.SessionType, 64))
	case wire.ActionKMSEncryption:
		sealedKey, err := r.actKey(ctx, asked.ActionParameters)
		if err != nil {
			return wire.ActionFailed, err
		}
		*result = sealedKey
		return wire.ActionSuccess, nil
	}
	return wire.ActionUnsupported, fmt.Errorf("the node asks for %q, which this version does not know", sallyport.Clip(asked.ActionType, 64))
}

// reach notes what is at the other end. There is no terminal there, so ours
// keeps its own line editing and echo, and Ctrl-C arrives as a signal.
func (r *run) reach(f far) {
	r.far.Store(int32(f))
	r.term.restore()
}
