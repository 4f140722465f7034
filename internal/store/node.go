package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport"
)

func noNode(id sallyport.NodeID) error {
	return sallyport.Errorf(sallyport.InvalidInstanceID, "There is no managed node %s. Check the id, or register the machine again.", id)
}

// maxAgentText is the most AWS takes in any of an agent's fields (the model's
// ComputerName), and well under what an index takes.
const maxAgentText = 255

func cleanAgent(a sallyport.Agent) sallyport.Agent {
	for _, s := range []*string{&a.Name, &a.Version, &a.PlatformType, &a.PlatformName, &a.PlatformVersion,
		&a.ComputerName, &a.IPAddress, &a.AvailabilityZone, &a.ConnectionChannel} {
		*s = sallyport.Clip(clean(*s), maxAgentText)
	}
	return a
}

// Get returns a node as of this moment, with what [DB.Ping], [DB.SetOnline]
// and [DB.Trouble] have noted and not yet written. InvalidInstanceId if there
// is none.
func (ns Nodes) Get(ctx context.Context, id sallyport.NodeID) (*sallyport.Node, error) {
	var w where
	w.add("id = ?", id.String())
	list, err := ns.nodes(ctx, w, "", 1)
	if err != nil {
		return nil, fmt.Errorf("read node %s: %w", id, err)
	}
	if len(list) == 0 {
		return nil, noNode(id)
	}
	return list[0], nil
}

// nodeQuery returns the query for up to limit nodes in order of id, a row for
// each of their tags.
func (ns Nodes) nodeQuery(w where, index string, limit int) string {
	return `SELECT n.id, n.name, n.activation, n.role, n.role_id, n.registered, n.public_key, n.fingerprint,
			n.agent_name, n.agent_version, n.platform_type, n.platform_name, n.platform_version, n.computer_name,
			n.ip_address, n.availability_zone, n.connection_channel,
			n.last_ping, n.online, n.trouble_at, n.trouble, t.name, t.value
		FROM (SELECT * FROM nodes` + ns.db.dialect.using(index) + ` WHERE ` + w.String() + ` ORDER BY id LIMIT ` + strconv.Itoa(limit) + `) n
		LEFT JOIN node_tags t ON t.node = n.id ORDER BY n.id`
}

// nodes reads up to limit nodes in order of id, each with its tags.
func (ns Nodes) nodes(ctx context.Context, w where, index string, limit int) ([]*sallyport.Node, error) {
	// Taken before the query, so that what is written in between is in one of
	// the two, if not both.
	notes := ns.db.pending.nodeNotes()

	var list []*sallyport.Node
	_, err := collect(ctx, ns.q(), func(s scanner) (struct{}, error) {
		n, name, value, err := scanNode(s)
		if err != nil {
			return struct{}{}, err
		}
		if len(list) == 0 || list[len(list)-1].ID != n.ID {
			list = append(list, n)
		}
		if last := list[len(list)-1]; name.Valid {
			if last.Tags == nil {
				last.Tags = map[string]string{}
			}
			last.Tags[name.String] = value.String
		}
		return struct{}{}, nil
	}, ns.nodeQuery(w, index, limit), w.args...)
	if err != nil {
		return nil, translate(err)
	}
	for _, n := range list {
		if note, ok := notes[n.ID]; ok {
			note.overlay(n)
		}
	}
	return list, nil
}

func scanNode(s scanner) (n *sallyport.Node, tag, value sql.NullString, err error) {
	n = &sallyport.Node{}
	var id string
	var registered, ping, trouble int64
	if err := s.Scan(&id, &n.Name, &n.Activation, &n.Role, &n.RoleID, &registered, &n.PublicKey, &n.Fingerprint,
		&n.Agent.Name, &n.Agent.Version, &n.Agent.PlatformType, &n.Agent.PlatformName, &n.Agent.PlatformVersion, &n.Agent.ComputerName,
		&n.Agent.IPAddress, &n.Agent.AvailabilityZone, &n.Agent.ConnectionChannel,
		&ping, &n.Online, &trouble, &n.Trouble.Reason, &tag, &value); err != nil {
		return nil, tag, value, err
	}
	n.ID, err = sallyport.ParseNodeID(id)
	n.Registered, n.LastPing, n.Trouble.At = fromMillis(registered), fromMillis(ping), fromMillis(trouble)
	return n, tag, value, err
}

// The values of PingStatus, as AWS spells them.
const (
	PingOnline   = "Online"         // its control channel is open
	PingLost     = "ConnectionLost" // it was online once
	PingInactive = "Inactive"       // it never was
)

// A NodeFilter says which nodes are wanted: those that match one of the values
// of every field that has any. The fields are the filters of
// DescribeInstanceInformation.
type NodeFilter struct {
	IDs           []sallyport.NodeID
	Names         []string
	AgentVersions []string
	PingStatuses  []string // [PingOnline], [PingLost], [PingInactive]
	PlatformTypes []string // Linux, Windows, MacOS
	Activations   []string
	Roles         []string
	ResourceTypes []string // ManagedInstance, EC2Instance
	Tags          []TagFilter
}

// A TagFilter wants a tag, and, if Values has any, one of these values for it.
type TagFilter struct {
	Name   string
	Values []string
}

// List lists nodes in order of id.
//
// A page by one field with one value is one walk down an index, and reads what
// it returns. Several fields or values read the nodes that match one of them.
func (ns Nodes) List(ctx context.Context, f NodeFilter, page Page) ([]*sallyport.Node, Cursor, error) {
	after, err := page.place("nodes", 1)
	if err != nil {
		return nil, "", err
	}
	if len(f.PingStatuses) > 0 {
		// What SQL is to compare must be written. If it cannot be, or within a
		// transaction, the answer is as old as what is.
		if ns.tx == nil {
			_ = ns.db.Flush(ctx)
		}
	}
	w, index, err := f.where()
	if err != nil {
		return nil, "", err
	}
	if after != nil {
		w.add("id > ?", after[0])
	}
	list, err := ns.nodes(ctx, w, index, page.limit()+1)
	if err != nil {
		return nil, "", fmt.Errorf("list nodes: %w", err)
	}
	list, next := cut(list, page, func(n *sallyport.Node) Cursor { return newCursor("nodes", n.ID.String()) })
	return list, next, nil
}

// where returns the filter's conditions, and the index that serves them if one
// field with one value is all there is.
func (f *NodeFilter) where() (w where, index string, err error) {
	ids := make([]string, len(f.IDs))
	for i, id := range f.IDs {
		ids[i] = id.String()
	}
	w.in("id", ids)
	w.in("name", f.Names)
	w.in("agent_version", f.AgentVersions)
	w.in("platform_type", f.PlatformTypes)
	w.in("activation", f.Activations)
	w.in("role", f.Roles)
	for _, t := range f.Tags {
		cond := "id IN (SELECT node FROM node_tags WHERE name = " + w.arg(t.Name)
		if len(t.Values) > 0 {
			cond += " AND value IN (" + w.list(t.Values) + ")"
		}
		w.conds = append(w.conds, cond+")")
	}
	err = w.any(f.PingStatuses, map[string]string{
		PingOnline:   "online = TRUE",
		PingLost:     "(online = FALSE AND last_ping > 0)",
		PingInactive: "(online = FALSE AND last_ping = 0)",
	}, sallyport.InvalidInstanceInformationFilterValue)
	if err != nil {
		return w, "", err
	}
	err = w.any(f.ResourceTypes, map[string]string{
		"ManagedInstance": "(id >= 'mi-' AND id < 'mi.')", // '.' follows '-', so this is a prefix an index serves
		"EC2Instance":     "(id >= 'i-' AND id < 'i.')",
	}, sallyport.InvalidInstanceInformationFilterValue)
	if len(w.conds) == 1 {
		index = indexes[strings.TrimSuffix(w.conds[0], " = $1")]
	}
	return w, index, err
}

// indexes lists the indexes of nodes, by the condition each serves.
var indexes = map[string]string{
	"name":            "nodes_name",
	"activation":      "nodes_activation",
	"role":            "nodes_role",
	"agent_version":   "nodes_agent_version",
	"platform_type":   "nodes_platform_type",
	"(online = TRUE)": "nodes_online",
}

// any wants one of the conditions that values name.
func (w *where) any(values []string, conds map[string]string, refuse sallyport.Code) error {
	var either []string
	for _, v := range values {
		cond, ok := conds[v]
		if !ok {
			return sallyport.Errorf(refuse, "%q is not a value of this filter.", sallyport.Clip(v, 64))
		}
		if !slices.Contains(either, cond) {
			either = append(either, cond)
		}
	}
	if len(either) > 0 {
		w.conds = append(w.conds, "("+strings.Join(either, " OR ")+")")
	}
	return nil
}

// updateNode runs a statement whose $1 is the node's id, or returns
// InvalidInstanceId if no node has it.
func (t *tx) updateNode(id sallyport.NodeID, statement string, args ...any) error {
	n, err := t.exec(statement, append([]any{id.String()}, args...)...)
	if err == nil && n == 0 {
		return noNode(id)
	}
	return err
}

// UpdateAgent replaces what a node's agent says of itself.
func (ns Nodes) UpdateAgent(ctx context.Context, id sallyport.NodeID, a sallyport.Agent) error {
	a = cleanAgent(a)
	err := ns.write(ctx, func(tx *tx) error {
		return tx.updateNode(id, `UPDATE nodes SET agent_name = $2, agent_version = $3, platform_type = $4, platform_name = $5,
			platform_version = $6, computer_name = $7, ip_address = $8, availability_zone = $9, connection_channel = $10 WHERE id = $1`,
			a.Name, a.Version, a.PlatformType, a.PlatformName, a.PlatformVersion, a.ComputerName, a.IPAddress, a.AvailabilityZone, a.ConnectionChannel)
	})
	return wrap(err, "update agent of node %s", id)
}

// SetRole changes the role a node's credentials are for: what it is called,
// and which it is.
func (ns Nodes) SetRole(ctx context.Context, id sallyport.NodeID, role, roleID string) error {
	err := ns.change(ctx, iamRevision, func(tx *tx) error { // what the node may do changes
		return tx.updateNode(id, `UPDATE nodes SET role = $2, role_id = $3 WHERE id = $1`, role, roleID)
	})
	return wrap(err, "set role of node %s", id)
}

// SetKey changes the key a node proves itself with. old must be the key it
// has, so that of two changes made from the same key only one is answered.
func (ns Nodes) SetKey(ctx context.Context, id sallyport.NodeID, old, key []byte) error {
	err := ns.write(ctx, func(tx *tx) error {
		n, err := tx.exec(`UPDATE nodes SET public_key = $3 WHERE id = $1 AND public_key = $2`, id.String(), blob(old), blob(key))
		if err != nil || n == 1 {
			return err
		}
		if err := tx.row(`SELECT count(*) FROM nodes WHERE id = $1`, id.String()).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			return noNode(id)
		}
		return sallyport.Errorf(sallyport.InvalidInstanceID, "The key of node %s was changed by another process just now. Register the machine again if that was not yours.", id)
	})
	return wrap(err, "set key of node %s", id)
}

// Deregister forgets a node. Its sessions stay in the history.
func (ns Nodes) Deregister(ctx context.Context, id sallyport.NodeID) error {
	err := ns.change(ctx, iamRevision, func(tx *tx) error {
		tx.goes(id.String())
		tx.leaves(Event{Kind: NodeEvent, Name: "Deregistered", Subject: id.String()})
		return tx.updateNode(id, `DELETE FROM nodes WHERE id = $1`) // its tags go with it
	})
	return wrap(err, "deregister node %s", id)
}

// Tag gives a node tags, in place of any by the same names. Names that differ
// by case alone from others are refused: see [sallyport.CheckTags].
func (ns Nodes) Tag(ctx context.Context, id sallyport.NodeID, tags map[string]string) error {
	return ns.onNodeTags(ctx, id, func(tx *tx) error {
		names, err := collect(tx.ctx, tx, readString, `SELECT name FROM node_tags WHERE node = $1`, id.String())
		if err != nil {
			return err
		}
		has := map[string]string{}
		for _, name := range names {
			has[name] = ""
		}
		if err := sallyport.CheckTags(has, tags); err != nil {
			return err
		}
		return setNodeTags(tx, id, tags)
	})
}

// Untag takes tags off a node. It does not matter if they were not there.
func (ns Nodes) Untag(ctx context.Context, id sallyport.NodeID, names []string) error {
	return ns.onNodeTags(ctx, id, func(tx *tx) error {
		for _, name := range names {
			if _, err := tx.exec(`DELETE FROM node_tags WHERE node = $1 AND name = $2`, id.String(), name); err != nil {
				return err
			}
		}
		return nil
	})
}

func (ns Nodes) onNodeTags(ctx context.Context, id sallyport.NodeID, do func(*tx) error) error {
	err := ns.change(ctx, iamRevision, func(tx *tx) error {
		// Writing the row, if only to what it was, makes two that tag the same
		// node take turns, so that the count below holds.
		n, err := tx.exec(`UPDATE nodes SET name = name WHERE id = $1`, id.String())
		if err != nil {
			return err
		}
		if n == 0 {
			return noNode(id)
		}
		if err := do(tx); err != nil {
			return err
		}
		if err := tx.row(`SELECT count(*) FROM node_tags WHERE node = $1`, id.String()).Scan(&n); err != nil {
			return err
		}
		if n > maxTags {
			return sallyport.Errorf(sallyport.TooManyTagsError, "A node may have %d tags. Remove some first.", maxTags)
		}
		return nil
	})
	return wrap(err, "tag node %s", id)
}

// MarkAllOffline is for a server that starts: no node's channel can be open yet.
func (ns Nodes) MarkAllOffline(ctx context.Context) error {
	err := ns.write(ctx, func(tx *tx) error {
		n, err := tx.exec(`UPDATE nodes SET online = FALSE WHERE online = TRUE`)
		if n > 0 {
			tx.leaves(Event{Kind: NodeEvent, Name: "AllOffline", Subject: "*", Details: details("nodes", strconv.FormatInt(n, 10))})
		}
		return err
	})
	return wrap(err, "mark nodes offline")
}
