package store

import (
	"testing"

	"github.com/sallyport/sallyport"
)

// A user is within its boundary from the first, or is not there.
func TestMadeWithinABoundary(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		ann := sallyport.User{Name: "ann", Path: "/", ID: sallyport.EntityID("AIDA"), Created: at(1), Boundary: ourPolicy}
		wantCode(t, db.IAM().CreateUser(ctx, ann), sallyport.NoSuchEntity, "not attachable")
		_, err := db.IAM().User(ctx, "ann")
		wantCode(t, err, sallyport.NoSuchEntity, "")
		createPolicy(t, db, ourPolicy, "{}")
		must(t, db.IAM().CreateUser(ctx, ann))
		u, err := db.IAM().User(ctx, "ann")
		must(t, err)
		g, err := db.IAM().Grants(ctx, User("ann"))
		must(t, err)
		if u.Boundary != ourPolicy || g.Boundary == nil || g.Boundary.Name != ourPolicy {
			t.Errorf("her boundary is %q, and %+v", u.Boundary, g.Boundary)
		}
	})
}
