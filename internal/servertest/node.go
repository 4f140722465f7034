package servertest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/endpoint"
	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/socket"
	"github.com/sallyport/sallyport/internal/wire"
)

// nodeRSA is every test node's key: making one is slow, and a test that needs
// two makes its own.
var nodeRSA = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// A Node is a machine that has registered, and speaks as AWS's agent does.
type Node struct {
	Server      *Server
	ID          sallyport.NodeID
	Key         *rsa.PrivateKey
	Fingerprint string

	// Shell is what a session's shell does with its stream; when it returns,
	// the shell has ended with that status. Nil echoes until "exit\r".
	Shell func(ctx context.Context, s *datachannel.Stream) int

	// Told is called with what the node is told to start. Nil is not called.
	Told func(wire.AgentTaskPayload)

	// Version is what the agent says it is. "" is [sallyport.WireAgentVersion].
	Version string

	// WantsReady has it ask, as agents 3.2.1478 to 3.3.40 do, to be told that
	// its channels are ready.
	WantsReady bool
}

// Register has a machine register through an activation for role; "" is the
// role every server begins with.
func (s *Server) Register(role string) *Node {
	s.T.Helper()
	if role == "" {
		role = "service-role/" + server.NodeRole
	}
	a, code := s.activation(role)
	n := &Node{Server: s, Key: nodeRSA(), Fingerprint: uuid.NewString()}
	id, err := n.TryRegister(a.ID, code.Reveal())
	if err != nil {
		s.T.Fatal(err)
	}
	n.ID = id
	return n
}

// activation makes an activation for one machine.
func (s *Server) activation(role string) (sallyport.Activation, sallyport.Secret) {
	s.T.Helper()
	now := time.Now()
	code := sallyport.GenerateSecret()
	r, err := s.API.NodeRole(s.T.Context(), role)
	if err != nil {
		s.T.Fatal(err)
	}
	a := sallyport.Activation{ID: uuid.NewString(), Code: code.Hash(), Role: r.PathAndName(), RoleID: r.ID, Limit: 1, Created: now, Expires: now.Add(time.Hour)}
	if err := s.Store.Activations().Create(s.T.Context(), a); err != nil {
		s.T.Fatal(err)
	}
	return a, code
}

// RegisterAgent registers the true agent, which keeps who it is in a state
// directory.
func (s *Server) RegisterAgent(state string) sallyport.NodeID {
	s.T.Helper()
	a, code := s.activation("service-role/" + server.NodeRole)
	reg, err := agent.Register(s.T.Context(), agent.Registering{State: state, Endpoint: Endpoint, Region: s.Realm.Region, Activation: a.ID, Code: code, HTTP: s.HTTP})
	if err != nil {
		s.T.Fatal(err)
	}
	return reg.Node
}

// TryRegister calls RegisterManagedInstance, with no signature.
func (n *Node) TryRegister(activation, code string) (sallyport.NodeID, error) {
	der, err := x509.MarshalPKIXPublicKey(&n.Key.PublicKey)
	if err != nil {
		return sallyport.NodeID{}, err
	}
	var out struct{ InstanceId sallyport.NodeID }
	err = n.Server.Client(nil).Call(n.Server.T.Context(), "ssm", "AmazonSSM.RegisterManagedInstance", map[string]string{
		"ActivationId": activation, "ActivationCode": code, "Fingerprint": n.Fingerprint,
		"PublicKey": base64.StdEncoding.EncodeToString(der), "PublicKeyType": "Rsa",
	}, &out)
	return out.InstanceId, err
}

// Credentials asks for the node's credentials, signing with its key.
func (n *Node) Credentials() (aws.CredentialsProvider, error) {
	var out struct{ AccessKeyId, SecretAccessKey, SessionToken string }
	err := n.Server.Client(nil).CallRSA(n.Server.T.Context(), n.ID, n.Key, "AmazonSSM.RequestManagedInstanceRoleToken",
		map[string]string{"Fingerprint": n.Fingerprint}, &out)
	return credentials.NewStaticCredentialsProvider(out.AccessKeyId, out.SecretAccessKey, out.SessionToken), err
}

// Client is the node's own, with its credentials.
func (n *Node) Client() *endpoint.Client {
	n.Server.T.Helper()
	p, err := n.Credentials()
	if err != nil {
		n.Server.T.Fatal(err)
	}
	return n.Server.Client(p)
}

func (n *Node) version() string {
	if n.Version != "" {
		return n.Version
	}
	return sallyport.WireAgentVersion
}

// Ping calls UpdateInstanceInformation.
func (n *Node) Ping(c *endpoint.Client) error {
	return c.Call(n.Server.T.Context(), "ssm", "AmazonSSM.UpdateInstanceInformation", map[string]string{
		"InstanceId": n.ID.String(), "AgentName": "amazon-ssm-agent", "AgentVersion": n.version(), "PlatformType": "Linux",
		"PlatformName": "Debian GNU/Linux", "PlatformVersion": "13", "ComputerName": "box3.example.test", "IPAddress": "192.0.2.31",
	}, nil)
}

// Online opens the node's control channel and answers what comes on it, until
// the test is over or offline is called, which returns when all is quiet. The
// node is online when Online returns.
func (n *Node) Online() (offline func()) {
	n.Server.T.Helper()
	c := n.Client()
	if err := n.Ping(c); err != nil {
		n.Server.T.Fatal(err)
	}
	conn, err := n.Control(c)
	if err != nil {
		n.Server.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { n.answer(ctx, c, conn, &all) })
	offline = func() {
		cancel()
		conn.Drop()
		all.Wait()
	}
	n.Server.T.Cleanup(offline)
	Eventually(n.Server.T, "the node is online", n.isOnline)
	return offline
}

func (n *Node) isOnline() bool {
	got, err := n.Server.Store.Nodes().Get(n.Server.T.Context(), n.ID)
	return err == nil && got.Online
}

// Control opens the node's control channel, and nothing more.
func (n *Node) Control(c *endpoint.Client) (*socket.Conn, error) {
	ctx := n.Server.T.Context()
	path := "/v1/control-channel/" + n.ID.String()
	channel, err := c.CreateChannel(ctx, path, map[string]string{"MessageSchemaVersion": "1.0", "RequestId": uuid.NewString()})
	if err != nil {
		return nil, err
	}
	conn, err := c.Socket(ctx, path+"?role=subscribe&stream=input", "ssmmessages")
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(wire.OpenControlChannel{MessageSchemaVersion: "1.0", RequestId: uuid.NewString(), TokenValue: wire.NewToken(channel.Token), AgentVersion: n.version(), PlatformType: "linux", RequireAcknowledgement: n.WantsReady})
	if err != nil {
		return nil, err
	}
	return conn, conn.WriteText(ctx, b)
}

// answer reads the control channel and starts what it asks for.
func (n *Node) answer(ctx context.Context, c *endpoint.Client, conn *socket.Conn, all *sync.WaitGroup) {
	started := map[string]bool{}
	for {
		b, err := conn.ReadFrame(ctx)
		if err != nil {
			return
		}
		f, err := wire.Decode(b)
		if err != nil {
			n.Server.T.Errorf("on the control channel: %v", err)
			return
		}
		if f.Type != wire.TypeInteractiveShell {
			continue
		}
		task, err := wire.ReadAgentTask(f.Payload)
		if err != nil {
			n.Server.T.Errorf("on the control channel: %v", err)
			continue
		}
		if started[task.SessionId] {
			continue
		}
		started[task.SessionId] = true
		if n.Told != nil {
			n.Told(task)
		}
		all.Go(func() { n.session(ctx, c, conn, task.SessionId) })
	}
}

// session runs one shell, over one data channel after another.
func (n *Node) session(ctx context.Context, c *endpoint.Client, control *socket.Conn, id string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &datachannel.Stream{Sends: wire.TypeOutputStreamData, Control: func(f wire.Frame) {
		if f.Type == wire.TypeChannelClosed {
			cancel()
		}
	}}
	carried := make(chan struct{})
	go func() {
		defer close(carried)
		for ctx.Err() == nil {
			conn, err := n.Data(c, id)
			if err != nil {
				return
			}
			s.Run(ctx, conn)
			conn.Drop()
		}
	}()
	shell := n.Shell
	if shell == nil {
		shell = Echo
	}
	status := shell(ctx, s)
	flush, done := context.WithTimeout(ctx, 2*time.Second)
	s.Flush(flush)
	done()
	b, err := wire.AgentTaskComplete{SchemaVersion: 1, TaskId: id, Topic: string(wire.TypeAgentTaskComplete), FinalTaskStatus: "Success", InstanceId: n.ID.String(), RetryNumber: 1, ExitStatus: &status}.
		Frame(time.Now()).AppendBinary(nil)
	if err == nil {
		control.WriteFrame(context.WithoutCancel(ctx), b)
	}
	s.Close()
	cancel()
	<-carried
}

// Data opens a data channel of the node's, as its agent does.
func (n *Node) Data(c *endpoint.Client, session string) (*socket.Conn, error) {
	ctx := n.Server.T.Context()
	path := "/v1/data-channel/" + session
	channel, err := c.CreateChannel(ctx, path, map[string]string{"MessageSchemaVersion": "1.0", "RequestId": uuid.NewString(), "ClientId": ""})
	if err != nil {
		return nil, err
	}
	conn, err := c.Socket(ctx, path+"?role=publish_subscribe", "ssmmessages")
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(wire.OpenDataChannel{MessageSchemaVersion: "1.0", RequestId: uuid.NewString(), TokenValue: wire.NewToken(channel.Token), ClientInstanceId: n.ID.String(), RequireAcknowledgement: n.WantsReady})
	if err != nil {
		return nil, err
	}
	return conn, conn.WriteText(ctx, b)
}

// Echo is a shell that repeats what is typed, until "exit\r".
func Echo(ctx context.Context, s *datachannel.Stream) int {
	s.Send(ctx, wire.KindOutput, []byte("$ "))
	for {
		m, err := s.Receive(ctx)
		if err != nil {
			return 129
		}
		if m.Kind != wire.KindOutput {
			continue
		}
		if string(m.Payload) == "exit\r" {
			return 0
		}
		s.Send(ctx, wire.KindOutput, m.Payload)
	}
}

// A Person is a person's end of a session, as AWS's plugin has it.
type Person struct {
	Stream *datachannel.Stream
	Closed chan wire.ChannelClosed // receives the last word; holds one

	Notices chan string // receives what is shown beside the session; holds a few

	conn *socket.Conn
	ran  chan struct{}
}

// Join opens a person's end, which announces the capabilities. Signer signs the
// socket; nil leaves it unsigned.
func (s *Server) Join(session, token, clientID string, signer aws.CredentialsProvider, capabilities ...string) (*Person, error) {
	return s.Rejoin(nil, session, token, clientID, signer, capabilities...)
}

// Rejoin is [Server.Join] on another socket, with the stream of a person who
// has left.
func (s *Server) Rejoin(p *Person, session, token, clientID string, signer aws.CredentialsProvider, capabilities ...string) (*Person, error) {
	ctx := s.T.Context()
	conn, err := s.Client(signer).Socket(ctx, "/v1/data-channel/"+session+"?role=publish_subscribe", "ssmmessages")
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(wire.OpenDataChannel{MessageSchemaVersion: "1.0", RequestId: uuid.NewString(), TokenValue: wire.NewToken(sallyport.NewSecret(token)), ClientId: clientID, ClientVersion: "1.2.804.0", Capabilities: capabilities})
	if err != nil {
		return nil, err
	}
	if err := conn.WriteText(ctx, b); err != nil {
		return nil, err
	}
	again := &Person{conn: conn, ran: make(chan struct{})}
	if p != nil {
		again.Stream, again.Closed, again.Notices = p.Stream, p.Closed, p.Notices
	} else {
		again.Closed, again.Notices = make(chan wire.ChannelClosed, 1), make(chan string, 8)
		again.Stream = &datachannel.Stream{Sends: wire.TypeInputStreamData, Control: func(f wire.Frame) {
			var closed wire.ChannelClosed
			var notice wire.SallyportNotice
			switch {
			case f.Type == wire.TypeChannelClosed && f.Unmarshal(&closed) == nil:
				again.Closed <- closed
				again.Stream.Close() // and then the socket, as AWS's plugin does
			case f.Type == wire.TypeSallyportNotice && f.Unmarshal(&notice) == nil:
				select {
				case again.Notices <- notice.Text:
				default:
				}
			}
		}}
	}
	go func() {
		defer close(again.ran)
		again.Stream.Run(context.Background(), conn)
		conn.Drop()
	}()
	s.T.Cleanup(again.Leave)
	return again, nil
}

// Leave drops the socket, as a lost network does.
func (p *Person) Leave() {
	p.conn.Drop()
	<-p.ran
}

// Hear returns the next n bytes shown to the person.
func (p *Person) Hear(ctx context.Context, n int) (string, error) {
	var got []byte
	for len(got) < n {
		m, err := p.Stream.Receive(ctx)
		if err != nil {
			return string(got), err
		}
		if m.Kind != wire.KindOutput {
			return string(got), errors.New("heard " + m.Kind.String())
		}
		got = append(got, m.Payload...)
	}
	return string(got), nil
}
