package iam

import (
	"cmp"
	"context"
	"maps"
	"regexp"
	"slices"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/shape"
)

// What policy is asked, by what an operation is about. The condition keys are
// those that AWS gives each operation. (Service Authorization Reference,
// "Actions, resources, and condition keys for AWS Identity and Access
// Management".)

// ask completes the question of an operation with what its input says.
func ask(c *api.Call, q api.Question) ([]api.Question, error) {
	q.Action = c.Action()
	if q.Keys == nil {
		q.Keys = map[string]string{}
	}
	f := c.Input().Fields()
	if list, ok := f.Optional("Tags"); ok {
		tags, err := readTags(shape.List(list, shape.Size{}, func(e shape.Value) (t Tag) { t.Read(e); return t }))
		if err != nil {
			return nil, err
		}
		q.RequestTags, q.TagKeys = tags, slices.Sorted(maps.Keys(tags))
	}
	if list, ok := f.Optional("TagKeys"); ok {
		q.TagKeys = shape.List(list, shape.Size{}, func(e shape.Value) string { return e.Text(nil) })
	}
	if err := setARN(c, &q, "PermissionsBoundary", "iam:PermissionsBoundary"); err != nil {
		return nil, err
	}
	return []api.Question{q}, nil
}

// setARN sets a condition key to the ARN of a policy that a member has.
func setARN(c *api.Call, q *api.Question, member, key string) error {
	arn := c.Text(member)
	if arn == "" {
		return nil
	}
	q.Keys[key] = arn
	return checkPolicyARN(arn)
}

// policyARN is the form of a managed policy's ARN: ours, AWS's, or another
// account's, which is never found.
var policyARN = regexp.MustCompile(`^arn:aws:iam::(aws|[0-9]{12}):policy((?:/[A-Za-z0-9.,+@=_-]+)*/)([\w+=,.@-]{1,128})$`)

func checkPolicyARN(arn string) error {
	if !policyARN.MatchString(arn) {
		return sallyport.Errorf(sallyport.InvalidInput, "ARN %s is not valid.", sallyport.Clip(arn, 200))
	}
	return nil
}

// resourceTags are the tags of a user or role under the name of IAM's own,
// beside aws:ResourceTag.
func resourceTags(tags map[string]string) map[string]string {
	keys := map[string]string{}
	for k, v := range tags {
		keys["iam:ResourceTag/"+k] = v
	}
	return keys
}

// found reports whether something was looked up; that it is not there is no
// error here.
func found(err error) (bool, error) {
	if sallyport.CodeOf(err) == sallyport.NoSuchEntity {
		return false, nil
	}
	return err == nil, err
}

// aboutUser is the question about a user, and the user if there is one.
func aboutUser(ctx context.Context, c *api.Call, name string) (api.Question, *sallyport.User, error) {
	q := api.Question{Name: "user " + name, Resources: []string{c.Server.Realm.User("/", name)}}
	u, err := c.Server.Store.IAM().User(ctx, name)
	if ok, err := found(err); !ok {
		return q, nil, err
	}
	q.Resources[0] = c.Server.Realm.User(u.Path, u.Name)
	q.Tags, q.Keys = u.Tags, resourceTags(u.Tags)
	return q, u, nil
}

const (
	resourceTag = "iam:ResourceTag/"
	boundaryKey = "iam:PermissionsBoundary"
	policyKey   = "iam:PolicyARN"
)

// What the rows of [Service] ask about. Each asks about one thing that the input
// names. Bounded are those that change what a user or role may: the boundary it has
// is a condition. Attaching are those of them that name a managed policy.
var (
	onUser        = api.On(askUser, api.Resource("user", resourceTag))
	onUserLimits  = api.On(askUser, api.Resource("user", resourceTag, boundaryKey))
	onBoundedUser = api.On(askBoundedUser, api.Resource("user", resourceTag, boundaryKey))
	onAttachUser  = api.On(attaching(askBoundedUser), api.Resource("user", resourceTag, boundaryKey, policyKey))
	onNewUser     = api.On(askNewUser, api.Resource("user", boundaryKey))
	onMovedUser   = api.By(askMovedUser, api.Resource("user", resourceTag))
	onSelf        = api.On(askSelf, api.Resource("user", resourceTag))
	onKeyOwner    = api.By(askKeyOwner, api.Resource("user", resourceTag))

	onGroup       = api.On(askGroup, api.Resource("group"))
	onAttachGroup = api.On(attaching(askGroup), api.Resource("group", policyKey))
	onNewGroup    = api.On(askNewGroup, api.Resource("group"))
	onMovedGroup  = api.By(askMovedGroup, api.Resource("group"))

	onRole        = api.On(askRole, api.Resource("role", resourceTag))
	onRoleLimits  = api.On(askRole, api.Resource("role", resourceTag, boundaryKey))
	onBoundedRole = api.On(askBoundedRole, api.Resource("role", resourceTag, boundaryKey))
	onAttachRole  = api.On(attaching(askBoundedRole), api.Resource("role", resourceTag, boundaryKey, policyKey))
	onNewRole     = api.On(askNewRole, api.Resource("role", boundaryKey))

	onPolicy    = api.On(askPolicy, api.Resource("policy"))
	onNewPolicy = api.On(askNewPolicy, api.Resource("policy"))
)

// attaching adds the managed policy that is attached or detached to a question.
func attaching(ask func(context.Context, *api.Call) ([]api.Question, error)) func(context.Context, *api.Call) ([]api.Question, error) {
	return func(ctx context.Context, c *api.Call) ([]api.Question, error) {
		qs, err := ask(ctx, c)
		if err != nil {
			return nil, err
		}
		return qs, setARN(c, &qs[0], "PolicyArn", policyKey)
	}
}

func askUser(ctx context.Context, c *api.Call) ([]api.Question, error) {
	q, _, err := aboutUser(ctx, c, c.Text("UserName"))
	if err != nil {
		return nil, err
	}
	return ask(c, q)
}

// askBoundedUser is for what changes a user's rights: the boundary the user has
// is a condition.
func askBoundedUser(ctx context.Context, c *api.Call) ([]api.Question, error) {
	q, u, err := aboutUser(ctx, c, c.Text("UserName"))
	if err != nil {
		return nil, err
	}
	if u != nil && u.Boundary != "" {
		q.Keys["iam:PermissionsBoundary"] = u.Boundary
	}
	return ask(c, q)
}

func askNewUser(_ context.Context, c *api.Call) ([]api.Question, error) {
	name := c.Text("UserName")
	return ask(c, api.Question{Name: "user " + name, Resources: []string{c.Server.Realm.User(path(c), name)}})
}

// path is where a new thing is to be.
func path(c *api.Call) string { return cmp.Or(c.Text("Path"), "/") }

// askMovedUser asks about the user as it is and as it will be. Otherwise a caller
// that may change one user could give it a name that other policies allow more.
func askMovedUser(ctx context.Context, c *api.Call, in *UpdateUserInput) ([]api.Question, error) {
	q, u, err := aboutUser(ctx, c, in.UserName)
	if err != nil {
		return nil, err
	}
	all, err := ask(c, q)
	if err != nil || in.NewPath == nil && in.NewUserName == nil {
		return all, err
	}
	to := all[0]
	path, name := "/", or(in.NewUserName, in.UserName)
	if u != nil {
		path = u.Path
	}
	to.Name, to.Resources = "user "+name, []string{c.Server.Realm.User(or(in.NewPath, path), name)}
	return append(all, to), nil
}

// self is the user an operation is about: the caller, if the input names no user.
// It is "" for the account's root.
func self(c *api.Call, name string) (string, error) {
	switch {
	case name != "":
		return name, nil
	case c.Who.Kind == sallyport.Root:
		return "", nil
	case c.Who.Kind == sallyport.UserKind:
		return c.Who.Name, nil
	}
	return "", sallyport.Errorf(sallyport.ValidationException, "Must specify userName when calling with non-User credentials")
}

func askSelf(ctx context.Context, c *api.Call) ([]api.Question, error) {
	name, err := self(c, c.Text("UserName"))
	if err != nil {
		return nil, err
	}
	if name == "" {
		return ask(c, api.Question{Resources: []string{c.Server.Realm.Root()}})
	}
	q, _, err := aboutUser(ctx, c, name)
	if err != nil {
		return nil, err
	}
	return ask(c, q)
}

// askKeyOwner asks about the user that owns a key. For a key that is not there it
// asks about every user, so that only a caller that may ask about all of them learns
// that.
func askKeyOwner(ctx context.Context, c *api.Call, in *GetAccessKeyLastUsedInput) ([]api.Question, error) {
	owner, err := c.Server.Store.IAM().AccessKeyOwner(ctx, in.AccessKeyId)
	ok, err := found(err)
	if err != nil {
		return nil, err
	}
	var q api.Question
	switch {
	case ok && owner == "":
		q.Resources = []string{c.Server.Realm.Root()}
	case ok:
		if q, _, err = aboutUser(ctx, c, owner); err != nil {
			return nil, err
		}
	}
	q.Name = "access key " + in.AccessKeyId
	return ask(c, q)
}

func aboutGroup(ctx context.Context, c *api.Call, name string) (api.Question, *sallyport.Group, error) {
	q := api.Question{Name: "group " + name, Resources: []string{c.Server.Realm.Group("/", name)}}
	g, err := c.Server.Store.IAM().Group(ctx, name)
	if ok, err := found(err); !ok {
		return q, nil, err
	}
	q.Resources[0] = c.Server.Realm.Group(g.Path, g.Name)
	return q, g, nil
}

func askGroup(ctx context.Context, c *api.Call) ([]api.Question, error) {
	q, _, err := aboutGroup(ctx, c, c.Text("GroupName"))
	if err != nil {
		return nil, err
	}
	return ask(c, q)
}

func askNewGroup(_ context.Context, c *api.Call) ([]api.Question, error) {
	name := c.Text("GroupName")
	return ask(c, api.Question{Name: "group " + name, Resources: []string{c.Server.Realm.Group(path(c), name)}})
}

// askMovedGroup asks twice, as [askMovedUser] does.
func askMovedGroup(ctx context.Context, c *api.Call, in *UpdateGroupInput) ([]api.Question, error) {
	q, g, err := aboutGroup(ctx, c, in.GroupName)
	if err != nil {
		return nil, err
	}
	all, err := ask(c, q)
	if err != nil || in.NewPath == nil && in.NewGroupName == nil {
		return all, err
	}
	to := all[0]
	path, name := "/", or(in.NewGroupName, in.GroupName)
	if g != nil {
		path = g.Path
	}
	to.Name, to.Resources = "group "+name, []string{c.Server.Realm.Group(or(in.NewPath, path), name)}
	return append(all, to), nil
}

func aboutRole(ctx context.Context, c *api.Call, name string) (api.Question, *sallyport.Role, error) {
	q := api.Question{Name: "role " + name, Resources: []string{c.Server.Realm.Role("/", name)}}
	r, err := c.Server.Store.IAM().Role(ctx, name)
	if ok, err := found(err); !ok {
		return q, nil, err
	}
	q.Resources[0] = c.Server.Realm.Role(r.Path, r.Name)
	q.Tags, q.Keys = r.Tags, resourceTags(r.Tags)
	return q, r, nil
}

func askRole(ctx context.Context, c *api.Call) ([]api.Question, error) {
	q, _, err := aboutRole(ctx, c, c.Text("RoleName"))
	if err != nil {
		return nil, err
	}
	return ask(c, q)
}

// askBoundedRole is [askBoundedUser] for roles.
func askBoundedRole(ctx context.Context, c *api.Call) ([]api.Question, error) {
	q, r, err := aboutRole(ctx, c, c.Text("RoleName"))
	if err != nil {
		return nil, err
	}
	if r != nil && r.Boundary != "" {
		q.Keys["iam:PermissionsBoundary"] = r.Boundary
	}
	return ask(c, q)
}

func askNewRole(_ context.Context, c *api.Call) ([]api.Question, error) {
	name := c.Text("RoleName")
	return ask(c, api.Question{Name: "role " + name, Resources: []string{c.Server.Realm.Role(path(c), name)}})
}

// askPolicy asks about a managed policy, whose ARN the caller knows already.
func askPolicy(ctx context.Context, c *api.Call) ([]api.Question, error) {
	arn := c.Text("PolicyArn")
	if err := checkPolicyARN(arn); err != nil {
		return nil, err
	}
	q := api.Question{Name: "policy " + arn, Resources: []string{arn}}
	p, err := findPolicy(ctx, c, arn)
	if ok, err := found(err); err != nil {
		return nil, err
	} else if ok {
		q.Tags = p.Tags
	}
	return ask(c, q)
}

func askNewPolicy(_ context.Context, c *api.Call) ([]api.Question, error) {
	name := c.Text("PolicyName")
	return ask(c, api.Question{Name: "policy " + name, Resources: []string{c.Server.Realm.ManagedPolicy(path(c), name)}})
}
