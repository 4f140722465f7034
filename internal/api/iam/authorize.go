package iam

import (
	"context"
	"maps"
	"reflect"
	"regexp"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
)

// What policy is asked, by what an operation is about. The condition keys are
// those that AWS gives each operation. (Service Authorization Reference,
// "Actions, resources, and condition keys for AWS Identity and Access
// Management".)

// member returns a member of an input by name, or nothing if the input has
// none by that name. Inputs are the SDK's structs, which have no methods.
func member[T any](in any, name string) T {
	f := reflect.ValueOf(in).Elem().FieldByName(name)
	if !f.IsValid() {
		var nothing T
		return nothing
	}
	return f.Interface().(T)
}

func text(in any, name string) string { return val(member[*string](in, name)) }

// ask completes the one question of an operation with what its input says.
func ask(c *api.Call, in any, q api.Question) ([]api.Question, error) {
	q.Action = c.Action()
	if q.Keys == nil {
		q.Keys = map[string]string{}
	}
	tags, err := readTags(member[[]types.Tag](in, "Tags"))
	if err != nil {
		return nil, err
	}
	q.RequestTags, q.TagKeys = tags, slices.Sorted(maps.Keys(tags))
	if keys := member[[]string](in, "TagKeys"); len(keys) > 0 {
		q.TagKeys = keys
	}
	for parameter, key := range map[string]string{"PolicyArn": "iam:PolicyARN", "PermissionsBoundary": "iam:PermissionsBoundary"} {
		if arn := text(in, parameter); arn != "" {
			if err := checkPolicyARN(arn); err != nil {
				return nil, err
			}
			q.Keys[key] = arn
		}
	}
	return []api.Question{q}, nil
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

func onUser[In any](ctx context.Context, c *api.Call, in *In) ([]api.Question, error) {
	q, _, err := aboutUser(ctx, c, text(in, "UserName"))
	if err != nil {
		return nil, err
	}
	return ask(c, in, q)
}

// onBoundedUser is for what changes a user's rights: the boundary the user has
// is a condition.
func onBoundedUser[In any](ctx context.Context, c *api.Call, in *In) ([]api.Question, error) {
	q, u, err := aboutUser(ctx, c, text(in, "UserName"))
	if err != nil {
		return nil, err
	}
	if u != nil && u.Boundary != "" {
		q.Keys["iam:PermissionsBoundary"] = u.Boundary
	}
	return ask(c, in, q)
}

func onNewUser[In any](_ context.Context, c *api.Call, in *In) ([]api.Question, error) {
	name := text(in, "UserName")
	return ask(c, in, api.Question{Name: "user " + name, Resources: []string{c.Server.Realm.User(path(in), name)}})
}

// path is where a new thing is to be.
func path(in any) string { return or(member[*string](in, "Path"), "/") }

// onMovedUser asks about the user as it is and as it will be. Otherwise a caller
// that may change one user could give it a name that other policies allow more.
func onMovedUser(ctx context.Context, c *api.Call, in *iam.UpdateUserInput) ([]api.Question, error) {
	q, u, err := aboutUser(ctx, c, *in.UserName)
	if err != nil {
		return nil, err
	}
	all, err := ask(c, in, q)
	if err != nil || in.NewPath == nil && in.NewUserName == nil {
		return all, err
	}
	to := all[0]
	path, name := "/", or(in.NewUserName, *in.UserName)
	if u != nil {
		path = u.Path
	}
	to.Name, to.Resources = "user "+name, []string{c.Server.Realm.User(or(in.NewPath, path), name)}
	return append(all, to), nil
}

// self is the user an operation is about: the caller, if the input names no user.
// It is "" for the account's root.
func self(c *api.Call, name *string) (string, error) {
	switch {
	case name != nil:
		return *name, nil
	case c.Who.Kind == sallyport.Root:
		return "", nil
	case c.Who.Kind == sallyport.UserKind:
		return c.Who.Name, nil
	}
	return "", sallyport.Errorf(sallyport.ValidationException, "Must specify userName when calling with non-User credentials")
}

func onSelf[In any](ctx context.Context, c *api.Call, in *In) ([]api.Question, error) {
	name, err := self(c, member[*string](in, "UserName"))
	if err != nil {
		return nil, err
	}
	if name == "" {
		return ask(c, in, api.Question{Resources: []string{c.Server.Realm.Root()}})
	}
	q, _, err := aboutUser(ctx, c, name)
	if err != nil {
		return nil, err
	}
	return ask(c, in, q)
}

// onKeyOwner asks about the user that owns a key. For a key that is not there it
// asks about every user, so that only a caller that may ask about all of them learns
// that.
func onKeyOwner(ctx context.Context, c *api.Call, in *iam.GetAccessKeyLastUsedInput) ([]api.Question, error) {
	owner, err := c.Server.Store.IAM().AccessKeyOwner(ctx, *in.AccessKeyId)
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
	q.Name = "access key " + *in.AccessKeyId
	return ask(c, in, q)
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

func onGroup[In any](ctx context.Context, c *api.Call, in *In) ([]api.Question, error) {
	q, _, err := aboutGroup(ctx, c, text(in, "GroupName"))
	if err != nil {
		return nil, err
	}
	return ask(c, in, q)
}

func onNewGroup[In any](_ context.Context, c *api.Call, in *In) ([]api.Question, error) {
	name := text(in, "GroupName")
	return ask(c, in, api.Question{Name: "group " + name, Resources: []string{c.Server.Realm.Group(path(in), name)}})
}

// onMovedGroup asks twice, as [onMovedUser] does.
func onMovedGroup(ctx context.Context, c *api.Call, in *iam.UpdateGroupInput) ([]api.Question, error) {
	q, g, err := aboutGroup(ctx, c, *in.GroupName)
	if err != nil {
		return nil, err
	}
	all, err := ask(c, in, q)
	if err != nil || in.NewPath == nil && in.NewGroupName == nil {
		return all, err
	}
	to := all[0]
	path, name := "/", or(in.NewGroupName, *in.GroupName)
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

func onRole[In any](ctx context.Context, c *api.Call, in *In) ([]api.Question, error) {
	q, _, err := aboutRole(ctx, c, text(in, "RoleName"))
	if err != nil {
		return nil, err
	}
	return ask(c, in, q)
}

// onBoundedRole is [onBoundedUser] for roles.
func onBoundedRole[In any](ctx context.Context, c *api.Call, in *In) ([]api.Question, error) {
	q, r, err := aboutRole(ctx, c, text(in, "RoleName"))
	if err != nil {
		return nil, err
	}
	if r != nil && r.Boundary != "" {
		q.Keys["iam:PermissionsBoundary"] = r.Boundary
	}
	return ask(c, in, q)
}

func onNewRole[In any](_ context.Context, c *api.Call, in *In) ([]api.Question, error) {
	name := text(in, "RoleName")
	return ask(c, in, api.Question{Name: "role " + name, Resources: []string{c.Server.Realm.Role(path(in), name)}})
}

// onPolicy asks about a managed policy, whose ARN the caller knows already.
func onPolicy[In any](ctx context.Context, c *api.Call, in *In) ([]api.Question, error) {
	arn := text(in, "PolicyArn")
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
	return ask(c, in, q)
}

func onNewPolicy[In any](_ context.Context, c *api.Call, in *In) ([]api.Question, error) {
	name := text(in, "PolicyName")
	return ask(c, in, api.Question{Name: "policy " + name, Resources: []string{c.Server.Realm.ManagedPolicy(path(in), name)}})
}
