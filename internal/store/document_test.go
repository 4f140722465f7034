package store

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport"
)

func TestDocumentLives(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		first := sallyport.DocumentVersion{Document: "SSM-SessionManagerRunShell", VersionName: "one", DisplayName: "Prefs", TargetType: "/", Format: "JSON", Content: `{"ü":1}`, Created: at(1)}
		must(t, db.Documents().Create(ctx, first, map[string]string{"env": "lab"}))
		wantCode(t, db.Documents().Create(ctx, first, nil), sallyport.DocumentAlreadyExists, first.Document)

		d, v, err := db.Documents().Version(ctx, first.Document, "$LATEST", "")
		must(t, err)
		first.Number = 1
		if diff := cmp.Diff(&first, v); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(&sallyport.Document{Name: first.Document, Created: at(1), Default: 1, Latest: 1, Tags: map[string]string{"env": "lab"}, Shared: []string{}}, d); diff != "" {
			t.Error(diff)
		}

		next := sallyport.DocumentVersion{Document: first.Document, Format: "JSON", Content: "{}", Created: at(2)}
		_, err = db.Documents().Update(ctx, next, "7")
		wantCode(t, err, sallyport.InvalidDocumentVersion, "latest version of document SSM-SessionManagerRunShell is 1")
		same := next
		same.Content = first.Content
		_, err = db.Documents().Update(ctx, same, "$LATEST")
		wantCode(t, err, sallyport.DuplicateDocumentContent, first.Document)
		named := next
		named.VersionName = "one"
		_, err = db.Documents().Update(ctx, named, "$LATEST")
		wantCode(t, err, sallyport.DuplicateDocumentVersionName, "one")
		added, err := db.Documents().Update(ctx, next, "1")
		must(t, err)
		if added.Number != 2 {
			t.Errorf("the next version is %d; what failed must not count", added.Number)
		}
		for selector, want := range map[string]int{"": 1, "$DEFAULT": 1, "$LATEST": 2, "2": 2, "1": 1} {
			if _, v, err := db.Documents().Version(ctx, first.Document, selector, ""); err != nil || v.Number != want {
				t.Errorf("%q is %+v, %v", selector, v, err)
			}
		}
		_, _, err = db.Documents().Version(ctx, first.Document, "3", "")
		wantCode(t, err, sallyport.InvalidDocumentVersion, "no version 3")
		_, _, err = db.Documents().Version(ctx, first.Document, "2", "one")
		wantCode(t, err, sallyport.InvalidDocumentVersion, "")
		if _, v, err := db.Documents().Version(ctx, first.Document, "", "one"); err != nil || v.Number != 1 {
			t.Errorf("by name: %+v, %v", v, err)
		}
		_, _, err = db.Documents().Version(ctx, "x\x00", "", "")
		wantCode(t, err, sallyport.InvalidDocument, "does not exist")

		wantCode(t, db.Documents().Delete(ctx, first.Document, "1", ""), sallyport.InvalidDocumentOperation, "is the default")
		_, err = db.Documents().SetDefault(ctx, first.Document, 2)
		must(t, err)
		must(t, db.Documents().Delete(ctx, first.Document, "", "one"))
		must(t, db.Documents().Share(ctx, first.Document, []string{"222222222222", "all"}, nil, 3))
		wantCode(t, db.Documents().Delete(ctx, first.Document, "", ""), sallyport.InvalidDocumentOperation, "is shared")
		wantCode(t, db.Documents().Share(ctx, first.Document, []string{"a", "b"}, nil, 3), sallyport.DocumentPermissionLimit, "4 accounts")
		must(t, db.Documents().Share(ctx, first.Document, nil, []string{"222222222222", "all"}, 3))
		must(t, db.Documents().Tag(ctx, first.Document, map[string]string{"team": "x"}, 2))
		wantCode(t, db.Documents().Tag(ctx, first.Document, map[string]string{"more": "x"}, 2), sallyport.TooManyTagsError, "3 tags")
		must(t, db.Documents().Untag(ctx, first.Document, []string{"env", "none"}))
		all, err := db.Documents().List(ctx)
		must(t, err)
		if len(all) != 1 || all[0].Default != 2 || len(all[0].Tags) != 1 || len(all[0].Shared) != 0 {
			t.Errorf("documents: %+v", all[0])
		}
		must(t, db.Documents().Delete(ctx, first.Document, "2", "")) // the last takes the document with it
		_, err = db.Documents().Get(ctx, first.Document)
		wantCode(t, err, sallyport.InvalidDocument, first.Document)
	})
}

func TestDocumentVersionsArePaged(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		must(t, db.Documents().Create(ctx, sallyport.DocumentVersion{Document: "doc", Format: "JSON", Content: "1"}, nil))
		for i := range 6 {
			_, err := db.Documents().Update(ctx, sallyport.DocumentVersion{Document: "doc", Format: "JSON", Content: fmt.Sprint(i + 2)}, "")
			must(t, err)
		}
		var got []int
		page := Page{Limit: 3}
		for {
			_, list, next, err := db.Documents().Versions(ctx, "doc", page)
			must(t, err)
			for _, v := range list {
				got = append(got, v.Number)
			}
			if page.After = next; next == "" {
				break
			}
		}
		if diff := cmp.Diff([]int{7, 6, 5, 4, 3, 2, 1}, got); diff != "" {
			t.Error(diff)
		}
	})
}
