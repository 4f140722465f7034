package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/sallyport/sallyport"
)

// How many documents an account may have, and versions a document. (API
// reference, DocumentLimitExceeded and DocumentVersionLimitExceeded.)
const (
	maxDocuments        = 500
	maxDocumentVersions = 1000
)

func noDocument(name string) error {
	return sallyport.Errorf(sallyport.InvalidDocument, "Document with name %s does not exist.", sallyport.Clip(clean(name), 128))
}

func noDocumentVersion(name, version string) error {
	return sallyport.Errorf(sallyport.InvalidDocumentVersion, "Document %s has no version %s.", sallyport.Clip(clean(name), 128), sallyport.Clip(clean(version), 128))
}

const documentColumns = `name, created, default_version, (SELECT max(version) FROM document_versions WHERE document = name), tags, shared`

func scanDocument(s scanner) (*sallyport.Document, error) {
	var d sallyport.Document
	var created int64
	var tags, shared string
	if err := s.Scan(&d.Name, &created, &d.Default, &d.Latest, &tags, &shared); err != nil {
		return nil, err
	}
	d.Created = fromMillis(created)
	if err := json.Unmarshal([]byte(shared), &d.Shared); err != nil {
		return nil, fmt.Errorf("read who shares a document: %w", err)
	}
	var err error
	d.Tags, err = parseTags(tags)
	return &d, err
}

const documentVersionColumns = `document, version, version_name, display_name, target_type, format, content, created`

func scanDocumentVersion(s scanner) (*sallyport.DocumentVersion, error) {
	var v sallyport.DocumentVersion
	var created int64
	err := s.Scan(&v.Document, &v.Number, &v.VersionName, &v.DisplayName, &v.TargetType, &v.Format, &v.Content, &created)
	v.Created = fromMillis(created)
	return &v, err
}

func insertDocumentVersion(tx *tx, v sallyport.DocumentVersion) error {
	if v.VersionName != "" {
		var n int
		if err := tx.row(`SELECT count(*) FROM document_versions WHERE document = $1 AND version_name = $2`, v.Document, clean(v.VersionName)).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return sallyport.Errorf(sallyport.DuplicateDocumentVersionName, "Document %s has a version named %s already.", v.Document, sallyport.Clip(clean(v.VersionName), 128))
		}
	}
	_, err := tx.exec(`INSERT INTO document_versions (`+documentVersionColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		v.Document, v.Number, clean(v.VersionName), clean(v.DisplayName), clean(v.TargetType), v.Format, clean(v.Content), millis(v.Created))
	return err
}

// Create adds a document with its first version, which is v; v's number is
// not read. One of that name that is there is DocumentAlreadyExists.
func (ds Documents) Create(ctx context.Context, v sallyport.DocumentVersion, tags map[string]string) error {
	if err := sallyport.CheckTags(nil, tags); err != nil {
		return wrap(err, "create document %s", v.Document)
	}
	v.Number = 1
	err := ds.change(ctx, documentRevision, func(tx *tx) error {
		var all, same int
		if err := tx.row(`SELECT count(*), coalesce(sum(CASE WHEN name = $1 THEN 1 ELSE 0 END), 0) FROM documents`, v.Document).Scan(&all, &same); err != nil {
			return err
		}
		switch {
		case same > 0:
			return sallyport.Errorf(sallyport.DocumentAlreadyExists, "Document with name %s already exists. Update it, or choose another name.", v.Document)
		case all >= maxDocuments:
			return sallyport.Errorf(sallyport.DocumentLimitExceeded, "There are %d documents, and there may be no more. Delete one first.", all)
		}
		_, err := tx.exec(`INSERT INTO documents (name, created, default_version, last_version, tags) VALUES ($1, $2, 1, 1, $3)`,
			v.Document, millis(v.Created), tagsJSON(tags))
		if err != nil {
			return err
		}
		return insertDocumentVersion(tx, v)
	})
	if err == nil {
		made(ctx, "document", v.Document, documentID(v.Created))
	}
	return wrap(err, "create document %s", v.Document)
}

func findDocument(ctx context.Context, q querier, name string) (*sallyport.Document, error) {
	d, err := scanDocument(q.QueryRowContext(ctx, `SELECT `+documentColumns+` FROM documents WHERE name = $1`, clean(name)))
	id := ""
	switch {
	case err == nil:
		id = documentID(d.Created)
	case !errors.Is(err, sql.ErrNoRows):
		return nil, fmt.Errorf("read document %s: %w", name, translate(err))
	}
	if !means(ctx, "document", name, id) || err != nil {
		return nil, noDocument(name)
	}
	return d, nil
}

// documentID tells a document from others that had its name, or will: its
// name's only ID is when it was created.
func documentID(created time.Time) string { return strconv.FormatInt(millis(created), 10) }

// Get returns a document, or InvalidDocument.
func (ds Documents) Get(ctx context.Context, name string) (*sallyport.Document, error) {
	return findDocument(ctx, ds.q(), name)
}

// Version returns a document and one version of it: a number, $LATEST,
// $DEFAULT or "", which is the default. If versionName is not empty it must be
// that version's, or it alone says which. A document that is not there is
// InvalidDocument, a version InvalidDocumentVersion.
func (ds Documents) Version(ctx context.Context, name, version, versionName string) (*sallyport.Document, *sallyport.DocumentVersion, error) {
	return findDocumentVersion(ctx, ds.q(), name, version, versionName)
}

func findDocumentVersion(ctx context.Context, q querier, name, version, versionName string) (*sallyport.Document, *sallyport.DocumentVersion, error) {
	d, err := findDocument(ctx, q, name)
	if err != nil {
		return nil, nil, err
	}
	var w where
	w.add("document = ?", name)
	switch number, err := strconv.Atoi(version); {
	case version == "" && versionName != "":
	case version == "" || version == "$DEFAULT":
		w.add("version = ?", d.Default)
	case version == "$LATEST":
		w.add("version = ?", d.Latest)
	case err != nil:
		return nil, nil, noDocumentVersion(name, version)
	default:
		w.add("version = ?", number)
	}
	if versionName != "" {
		w.add("version_name = ?", versionName)
	}
	v, err := scanDocumentVersion(q.QueryRowContext(ctx, `SELECT `+documentVersionColumns+` FROM document_versions WHERE `+w.String(), w.args...))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil, noDocumentVersion(name, version+versionName)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read document %s: %w", name, translate(err))
	}
	return d, v, nil
}

// Update adds v as the next version, and returns it. Base is the version
// it is made from, which must be the latest: a number, or $LATEST or "". The
// default stays where it is.
func (ds Documents) Update(ctx context.Context, v sallyport.DocumentVersion, base string) (added *sallyport.DocumentVersion, err error) {
	err = ds.change(ctx, documentRevision, func(tx *tx) error {
		// Written first, so that two who update take turns.
		n, err := tx.exec(`UPDATE documents SET last_version = last_version + 1 WHERE name = $1`, clean(v.Document))
		if err != nil {
			return err
		}
		if n == 0 {
			return noDocument(v.Document)
		}
		d, err := findDocument(tx.ctx, tx, v.Document)
		if err != nil {
			return err
		}
		if base != "" && base != "$LATEST" && base != strconv.Itoa(d.Latest) {
			return sallyport.Errorf(sallyport.InvalidDocumentVersion, "The latest version of document %s is %d, and only the latest, or $LATEST, can be updated.", v.Document, d.Latest)
		}
		var versions int
		var same bool
		err = tx.row(`SELECT (SELECT count(*) FROM document_versions WHERE document = $1), content = $2 AND format = $3
			FROM document_versions WHERE document = $1 AND version = $4`,
			v.Document, clean(v.Content), v.Format, d.Latest).Scan(&versions, &same)
		switch {
		case err != nil:
			return err
		case same:
			return sallyport.Errorf(sallyport.DuplicateDocumentContent, "The latest version of document %s, %d, has the same content.", v.Document, d.Latest)
		case versions >= maxDocumentVersions:
			return sallyport.Errorf(sallyport.DocumentVersionLimitExceeded, "Document %s has %d versions, and may have no more. Delete some first.", v.Document, versions)
		}
		next := v
		if err := tx.row(`SELECT last_version FROM documents WHERE name = $1`, v.Document).Scan(&next.Number); err != nil {
			return err
		}
		added = &next
		return insertDocumentVersion(tx, next)
	})
	if err != nil {
		return nil, wrap(err, "update document %s", v.Document)
	}
	return added, nil
}

// SetDefault makes a version the default, and returns it.
func (ds Documents) SetDefault(ctx context.Context, name string, number int) (v *sallyport.DocumentVersion, err error) {
	err = ds.change(ctx, documentRevision, func(tx *tx) (err error) {
		if _, v, err = findDocumentVersion(tx.ctx, tx, name, strconv.Itoa(number), ""); err != nil {
			return err
		}
		_, err = tx.exec(`UPDATE documents SET default_version = $2 WHERE name = $1`, name, number)
		return err
	})
	return v, wrap(err, "set default version of document %s", name)
}

// Delete removes a document, or the one version that is named. One that
// is shared is not removed, nor is the default version alone, unless it is the
// last: InvalidDocumentOperation.
func (ds Documents) Delete(ctx context.Context, name, version, versionName string) error {
	err := ds.change(ctx, documentRevision, func(tx *tx) error {
		d, err := findDocument(tx.ctx, tx, name)
		if err != nil {
			return err
		}
		if len(d.Shared) > 0 {
			return sallyport.Errorf(sallyport.InvalidDocumentOperation, "Document %s is shared. Stop sharing it first.", name)
		}
		if version != "" || versionName != "" {
			_, v, err := findDocumentVersion(tx.ctx, tx, name, version, versionName)
			if err != nil {
				return err
			}
			var n int
			if err := tx.row(`SELECT count(*) FROM document_versions WHERE document = $1`, name).Scan(&n); err != nil {
				return err
			}
			if n > 1 && v.Number == d.Default {
				return sallyport.Errorf(sallyport.InvalidDocumentOperation, "Version %d of document %s is the default. Make another one the default first.", v.Number, name)
			}
			if n > 1 {
				_, err := tx.exec(`DELETE FROM document_versions WHERE document = $1 AND version = $2`, name, v.Number)
				return err
			}
		}
		if _, err := tx.exec(`DELETE FROM document_versions WHERE document = $1`, name); err != nil {
			return err
		}
		_, err = tx.exec(`DELETE FROM documents WHERE name = $1`, name)
		return err
	})
	return wrap(err, "delete document %s", name)
}

// List returns all documents, by name: there are few hundred at most.
func (ds Documents) List(ctx context.Context) ([]*sallyport.Document, error) {
	list, err := collect(ctx, ds.q(), scanDocument, `SELECT `+documentColumns+` FROM documents ORDER BY name`)
	return list, wrap(translate(err), "list documents")
}

// Versions lists the versions of a document, newest first.
func (ds Documents) Versions(ctx context.Context, name string, page Page) (*sallyport.Document, []*sallyport.DocumentVersion, Cursor, error) {
	d, err := ds.Get(ctx, name)
	if err != nil {
		return nil, nil, "", err
	}
	place, err := page.place("document-versions", 2)
	if err != nil {
		return nil, nil, "", err
	}
	var w where
	w.add("document = ?", name)
	if place != nil && place[0] == name {
		before, err := strconv.Atoi(place[1])
		if err != nil {
			return nil, nil, "", sallyport.Errorf(sallyport.InvalidNextToken, "The page token is not one that this list gave.")
		}
		w.add("version < ?", before)
	}
	list, err := collect(ctx, ds.q(), scanDocumentVersion, `SELECT `+documentVersionColumns+` FROM document_versions
		WHERE `+w.String()+` ORDER BY version DESC LIMIT `+w.arg(page.limit()+1), w.args...)
	if err != nil {
		return nil, nil, "", fmt.Errorf("list versions of document %s: %w", name, translate(err))
	}
	list, next := cut(list, page, func(v *sallyport.DocumentVersion) Cursor {
		return newCursor("document-versions", name, strconv.Itoa(v.Number))
	})
	return d, list, next, nil
}

// changeDocument has change alter a document's tags and who shares it.
func (ds Documents) changeDocument(ctx context.Context, name string, change func(d *sallyport.Document) error) error {
	err := ds.change(ctx, documentRevision, func(tx *tx) error {
		if _, err := tx.exec(`UPDATE documents SET name = name WHERE name = $1`, clean(name)); err != nil { // one at a time
			return err
		}
		d, err := findDocument(tx.ctx, tx, name)
		if err != nil {
			return err
		}
		if err := change(d); err != nil {
			return err
		}
		shared, err := json.Marshal(d.Shared)
		if err != nil || d.Shared == nil {
			shared = []byte("[]")
		}
		_, err = tx.exec(`UPDATE documents SET tags = $2, shared = $3 WHERE name = $1`, name, tagsJSON(d.Tags), string(shared))
		return err
	})
	return wrap(err, "change document %s", name)
}

// Tag adds tags to a document.
func (ds Documents) Tag(ctx context.Context, name string, tags map[string]string, most int) error {
	return ds.changeDocument(ctx, name, func(d *sallyport.Document) error {
		if err := sallyport.CheckTags(d.Tags, tags); err != nil {
			return err
		}
		if d.Tags == nil {
			d.Tags = map[string]string{}
		}
		for k, v := range tags {
			d.Tags[clean(k)] = clean(v)
		}
		if len(d.Tags) > most {
			return sallyport.Errorf(sallyport.TooManyTagsError, "Document %s would have %d tags, and may have %d.", name, len(d.Tags), most)
		}
		return nil
	})
}

// Untag takes tags off a document.
func (ds Documents) Untag(ctx context.Context, name string, keys []string) error {
	return ds.changeDocument(ctx, name, func(d *sallyport.Document) error {
		for _, k := range keys {
			delete(d.Tags, k)
		}
		return nil
	})
}

// Share changes who shares a document: account IDs, or "all".
func (ds Documents) Share(ctx context.Context, name string, add, remove []string, most int) error {
	return ds.changeDocument(ctx, name, func(d *sallyport.Document) error {
		for _, account := range add {
			if !slices.Contains(d.Shared, account) {
				d.Shared = append(d.Shared, account)
			}
		}
		d.Shared = slices.DeleteFunc(d.Shared, func(account string) bool { return slices.Contains(remove, account) })
		if len(d.Shared) > most {
			return sallyport.Errorf(sallyport.DocumentPermissionLimit, "Document %s would be shared with %d accounts, and may be with %d.", name, len(d.Shared), most)
		}
		slices.Sort(d.Shared)
		return nil
	})
}
