package ssm

import (
	"cmp"
	"context"
	"crypto/sha1" // AWS still says it beside the other
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/document"
)

// reserved begin the names of documents that are not the account's. (API
// reference, CreateDocument.)
var reserved = []string{"aws", "amazon", "amzn", "sallyport-"}

// maxShared is with how many accounts a document may be shared. (API reference,
// DocumentPermissionLimit.)
const maxShared = 1000

// onDocument asks whether the caller may take the call's action on a document. One
// that is not there is asked about as a session's.
func (s *Server) onDocument(ctx context.Context, c *api.Call, name string) ([]api.Question, error) {
	q := api.Question{
		Action:    c.Action(),
		Resources: []string{s.realm().Document(name)},
		Keys:      map[string]string{"ssm:DocumentType": string(DocumentTypeSession)},
	}
	t, err := s.anyDocument(ctx, name, "", "")
	if sallyport.CodeOf(err) == sallyport.InvalidDocument {
		return []api.Question{q}, nil
	}
	if err != nil {
		return nil, err
	}
	q.Tags, q.Keys["ssm:DocumentType"] = t.doc.Tags, string(t.kind)
	return []api.Question{q}, nil
}

func (s *Server) askCreateDocument(ctx context.Context, c *api.Call, in *CreateDocumentInput) ([]api.Question, error) {
	questions, err := s.onDocument(ctx, c, in.Name)
	if err != nil {
		return nil, err
	}
	q := &questions[0]
	q.RequestTags, err = readTags(in.Tags)
	q.TagKeys, q.Tags = keysOf(q.RequestTags), nil
	q.Keys["ssm:DocumentType"] = string(cmp.Or(in.DocumentType, DocumentTypeCommand))
	return questions, err
}

// parseDocument reads the text of a document that is to be stored. The format is JSON
// if it is not said.
func parseDocument(kind document.Kind, content string, format DocumentFormat) (string, error) {
	switch format {
	case "":
		format = DocumentFormatJson
	case DocumentFormatJson, DocumentFormatYaml:
	default:
		return "", sallyport.Errorf(sallyport.ValidationException, "A document is written in JSON or YAML, not in %s.", format)
	}
	d, err := document.ParseKind(kind, content, document.Format(format))
	if err != nil {
		return "", err
	}
	if input, place := d.LogsTo(); place != "" { // a promise that would not be kept
		return "", sallyport.Errorf(sallyport.InvalidDocumentContent,
			"%s is %q, and session logs are not sent anywhere yet: recordings are kept by the server. Leave %s empty.", input, sallyport.Clip(place, 64), input)
	}
	return string(format), nil
}

func (s *Server) createDocument(ctx context.Context, c *api.Call, in *CreateDocumentInput) (*CreateDocumentOutput, error) {
	for _, prefix := range reserved {
		if strings.HasPrefix(strings.ToLower(in.Name), prefix) {
			return nil, sallyport.Errorf(sallyport.ValidationException, "Names that begin with %s are reserved. Choose another name than %s.", (in.Name)[:len(prefix)], in.Name)
		}
	}
	kind := document.Kind(cmp.Or(in.DocumentType, DocumentTypeCommand)) // as AWS takes it
	switch {
	case kind != document.SessionKind && kind != document.CommandKind:
		return nil, sallyport.Errorf(sallyport.ValidationException, "Documents are for sessions and commands here: DocumentType has to be Session or Command, and is %q.", string(kind))
	case kind == document.CommandKind && in.Name == shellDocument:
		return nil, sallyport.Errorf(sallyport.ValidationException, "%s holds the preferences of sessions: its DocumentType has to be Session.", shellDocument)
	case len(in.Attachments) > 0 || len(in.Requires) > 0:
		return nil, sallyport.Errorf(sallyport.ValidationException, "Documents have neither attachments nor requirements here.")
	}
	format, err := parseDocument(kind, in.Content, in.DocumentFormat)
	if err != nil {
		return nil, err
	}
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	v := sallyport.DocumentVersion{
		Document: in.Name, VersionName: deref(in.VersionName), DisplayName: deref(in.DisplayName), TargetType: deref(in.TargetType),
		Format: format, Content: in.Content, Created: c.At,
	}
	if err := s.db().Documents().Create(ctx, v, tags); err != nil {
		return nil, err
	}
	description, err := s.describeDocument(ctx, v.Document, "", "")
	return &CreateDocumentOutput{DocumentDescription: description}, err
}

// A text is a document's, wherever it is from. Parsed is nil, and unread says why,
// if an earlier version of the server accepted the document and this one does not.
type text struct {
	sallyport.DocumentVersion
	doc    *sallyport.Document
	owner  string
	kind   document.Kind
	parsed *document.Document
	unread error
}

// document finds one version of a document, built-in or the account's, that can be
// read.
func (s *Server) document(ctx context.Context, name, version, versionName string) (*text, error) {
	t, err := s.anyDocument(ctx, name, version, versionName)
	if err != nil {
		return nil, err
	}
	return t, t.unread
}

// unreadable is what a person is told of a stored document that cannot be read any
// more: which it is, why, and what to do.
func unreadable(v *sallyport.DocumentVersion, err error) error {
	code, why := sallyport.CodeOf(err), messageOf(err)
	if v.Document == shellDocument {
		return sallyport.Errorf(code, "Document %s, version %d, holds the account's preferences and cannot be read, so no session starts. "+
			"%s It was stored by an earlier version of the server. Mend it with UpdateDocument, or delete it to have the defaults.", v.Document, v.Number, why)
	}
	return sallyport.Errorf(code, "Document %s, version %d, cannot be read, so no session starts with it. "+
		"%s It was stored by an earlier version of the server. Mend it with UpdateDocument, and make the new version its default.", v.Document, v.Number, why)
}

// anyDocument is document, for operations that do not need what the text means: a
// document that cannot be read is listed and shown, so that it can be mended.
func (s *Server) anyDocument(ctx context.Context, name, version, versionName string) (*text, error) {
	if b := document.FindBuiltin(name); b != nil {
		if versionName != "" || !slices.Contains([]string{"", "1", "$LATEST", "$DEFAULT"}, version) {
			return nil, sallyport.Errorf(sallyport.InvalidDocumentVersion, "Document %s has version 1 alone.", name)
		}
		v := sallyport.DocumentVersion{Document: name, Number: 1, Format: string(document.JSON), Content: b.Content, Created: b.Created}
		return &text{v, &sallyport.Document{Name: name, Created: b.Created, Default: 1, Latest: 1}, b.Owner, b.Doc.Kind, b.Doc, nil}, nil
	}
	d, v, err := s.db().Documents().Version(ctx, name, version, versionName)
	if err != nil {
		return nil, err
	}
	t := &text{*v, d, s.realm().Account, document.KindOf(v.Content, document.Format(v.Format)), nil, nil}
	if t.parsed, err = document.ParseKind(t.kind, v.Content, document.Format(v.Format)); err != nil {
		t.parsed, t.unread = nil, unreadable(v, err)
	}
	return t, nil
}

// platforms are those that a document is for. One that cannot be read is a
// session's.
func (t *text) platforms() (all []PlatformType) {
	if t.parsed == nil {
		return []PlatformType{PlatformTypeWindows, PlatformTypeLinux, PlatformTypeMacOS}
	}
	for _, p := range t.parsed.Platforms {
		all = append(all, PlatformType(p))
	}
	return all
}

func (t *text) schema() *string {
	if t.parsed == nil {
		return some("1.0")
	}
	return some(t.parsed.Schema)
}

func (s *Server) describeDocument(ctx context.Context, name, version, versionName string) (*DocumentDescription, error) {
	t, err := s.anyDocument(ctx, name, version, versionName)
	if err != nil {
		return nil, err
	}
	sum, old := sha256.Sum256([]byte(t.Content)), sha1.Sum([]byte(t.Content))
	d := &DocumentDescription{
		Name: some(name), Owner: some(t.owner), CreatedDate: &t.Created, Status: DocumentStatusActive,
		DisplayName: some(t.DisplayName), VersionName: some(t.VersionName), TargetType: some(t.TargetType),
		DocumentVersion: number(t.Number), LatestVersion: number(t.doc.Latest), DefaultVersion: number(t.doc.Default),
		DocumentFormat: DocumentFormat(t.Format), DocumentType: DocumentType(t.kind),
		SchemaVersion: t.schema(), PlatformTypes: t.platforms(), Tags: writeTags(t.doc.Tags),
		Hash: some(hex.EncodeToString(sum[:])), HashType: DocumentHashTypeSha256, Sha1: some(hex.EncodeToString(old[:])),
	}
	if t.unread != nil {
		d.Status, d.StatusInformation = DocumentStatusFailed, some(messageOf(t.unread))
		return d, nil
	}
	d.Description = some(t.parsed.Description)
	for _, name := range slices.Sorted(maps.Keys(t.parsed.Parameters)) {
		p := t.parsed.Parameters[name]
		out := DocumentParameter{Name: some(name), Description: some(p.Description), Type: DocumentParameterTypeString}
		if p.Type == "StringList" || t.kind == document.CommandKind { // AWS's model knows two of the types, and its answers have all
			out.Type = DocumentParameterType(p.Type)
		}
		if p.Default != nil {
			all := strings.Join(p.Default, ",")
			out.DefaultValue = &all
		}
		d.Parameters = append(d.Parameters, out)
	}
	return d, nil
}

// messageOf is an error's sentence, without its code.
func messageOf(err error) string {
	if e, ok := errors.AsType[*sallyport.Error](err); ok {
		return e.Message
	}
	return err.Error()
}

func number(n int) *string { return some(strconv.Itoa(n)) }

func (s *Server) describeDocumentCall(ctx context.Context, _ *api.Call, in *DescribeDocumentInput) (*DescribeDocumentOutput, error) {
	d, err := s.describeDocument(ctx, documentName(&in.Name), deref(in.DocumentVersion), deref(in.VersionName))
	return &DescribeDocumentOutput{Document: d}, err
}

func (s *Server) getDocument(ctx context.Context, _ *api.Call, in *GetDocumentInput) (*GetDocumentOutput, error) {
	t, err := s.anyDocument(ctx, documentName(&in.Name), deref(in.DocumentVersion), deref(in.VersionName))
	if err != nil {
		return nil, err
	}
	status, why := DocumentStatusActive, (*string)(nil)
	if t.unread != nil {
		status, why = DocumentStatusFailed, some(messageOf(t.unread))
	}
	content, format := t.Content, in.DocumentFormat
	switch {
	case format != "":
	case t.unread != nil: // as it was stored, to be mended
		format = DocumentFormat(t.Format)
	default: // (botocore's service-2.json: "JSON is the default format.")
		format = DocumentFormatJson
	}
	switch format {
	case DocumentFormat(t.Format):
	case DocumentFormatJson, DocumentFormatYaml:
		if t.unread != nil {
			return nil, t.unread
		}
		if content, err = t.parsed.Write(document.Format(format)); err != nil {
			return nil, err
		}
	default:
		return nil, sallyport.Errorf(sallyport.ValidationException, "A document is written in JSON or YAML, not in %s.", in.DocumentFormat)
	}
	return &GetDocumentOutput{
		Name: some(t.Document), CreatedDate: &t.Created, DisplayName: some(t.DisplayName), VersionName: some(t.VersionName),
		DocumentVersion: number(t.Number), Status: status, StatusInformation: why, Content: &content,
		DocumentType: DocumentType(t.kind), DocumentFormat: format,
	}, nil
}

// ours refuses to change what is built in.
func ours(name string) error {
	if document.FindBuiltin(name) != nil {
		return sallyport.Errorf(sallyport.InvalidDocumentOperation, "Document %s is there from the start, and cannot be changed. Create one of your own.", name)
	}
	return nil
}

func (s *Server) updateDocument(ctx context.Context, c *api.Call, in *UpdateDocumentInput) (*UpdateDocumentOutput, error) {
	name := documentName(&in.Name)
	if err := ours(name); err != nil {
		return nil, err
	}
	if len(in.Attachments) > 0 {
		return nil, sallyport.Errorf(sallyport.ValidationException, "Documents have no attachments here.")
	}
	latest, err := s.anyDocument(ctx, name, "$LATEST", "")
	if err != nil {
		return nil, err
	}
	format, err := parseDocument(latest.kind, in.Content, in.DocumentFormat) // which stays of its type
	if err != nil {
		return nil, err
	}
	added, err := s.db().Documents().Update(ctx, sallyport.DocumentVersion{
		Document: name, VersionName: deref(in.VersionName), DisplayName: deref(in.DisplayName), TargetType: deref(in.TargetType),
		Format: format, Content: in.Content, Created: c.At,
	}, deref(in.DocumentVersion))
	if err != nil {
		return nil, err
	}
	d, err := s.describeDocument(ctx, name, strconv.Itoa(added.Number), "")
	return &UpdateDocumentOutput{DocumentDescription: d}, err
}

func (s *Server) updateDocumentDefaultVersion(ctx context.Context, _ *api.Call, in *UpdateDocumentDefaultVersionInput) (*UpdateDocumentDefaultVersionOutput, error) {
	name := documentName(&in.Name)
	if err := ours(name); err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(in.DocumentVersion)
	if err != nil {
		return nil, sallyport.Errorf(sallyport.InvalidDocumentVersion, "%q is not the number of a version.", sallyport.Clip(in.DocumentVersion, 32))
	}
	v, err := s.db().Documents().SetDefault(ctx, name, n)
	if err != nil {
		return nil, err
	}
	return &UpdateDocumentDefaultVersionOutput{Description: &DocumentDefaultVersionDescription{
		Name: some(name), DefaultVersion: number(v.Number), DefaultVersionName: some(v.VersionName),
	}}, nil
}

func (s *Server) deleteDocument(ctx context.Context, _ *api.Call, in *DeleteDocumentInput) (*DeleteDocumentOutput, error) {
	name := documentName(&in.Name)
	if err := ours(name); err != nil {
		return nil, err
	}
	return &DeleteDocumentOutput{}, s.db().Documents().Delete(ctx, name, deref(in.DocumentVersion), deref(in.VersionName))
}

func (s *Server) listDocumentVersions(ctx context.Context, _ *api.Call, in *ListDocumentVersionsInput) (*ListDocumentVersionsOutput, error) {
	name := documentName(&in.Name)
	out := &ListDocumentVersionsOutput{}
	info := func(v sallyport.DocumentVersion, isDefault bool) DocumentVersionInfo {
		return DocumentVersionInfo{
			Name: some(name), DocumentVersion: number(v.Number), VersionName: some(v.VersionName), DisplayName: some(v.DisplayName),
			CreatedDate: &v.Created, IsDefaultVersion: &isDefault, DocumentFormat: DocumentFormat(v.Format), Status: DocumentStatusActive,
		}
	}
	if document.FindBuiltin(name) != nil {
		t, err := s.document(ctx, name, "", "")
		if err != nil {
			return nil, err
		}
		out.DocumentVersions = []DocumentVersionInfo{info(t.DocumentVersion, true)}
		return out, nil
	}
	d, list, cursor, err := s.db().Documents().Versions(ctx, name, page(in.NextToken, in.MaxResults, 50))
	if err != nil {
		return nil, err
	}
	for _, v := range list {
		out.DocumentVersions = append(out.DocumentVersions, info(*v, v.Number == d.Default))
	}
	out.NextToken = next(cursor)
	return out, nil
}

// A documentFilter is one condition of ListDocuments: any of its values.
type documentFilter struct {
	key    string
	values []string
}

func (s *Server) listDocuments(ctx context.Context, _ *api.Call, in *ListDocumentsInput) (*ListDocumentsOutput, error) {
	var filters []documentFilter
	for _, f := range in.DocumentFilterList {
		filters = append(filters, documentFilter{string(f.Key), []string{f.Value}})
	}
	for _, f := range in.Filters {
		filters = append(filters, documentFilter{deref(f.Key), f.Values})
	}
	for _, f := range filters {
		switch {
		case slices.Contains([]string{"Owner", "DocumentType", "PlatformTypes", "Name", "TargetType", "SearchKeyword"}, f.key), strings.HasPrefix(f.key, "tag:"):
		default:
			return nil, unknownFilter(f.key, "Owner", "DocumentType", "PlatformTypes", "Name", "TargetType", "SearchKeyword", "tag:…")
		}
		if len(f.values) == 0 {
			return nil, sallyport.Errorf(sallyport.ValidationException, "The filter %s has no values.", sallyport.Clip(f.key, 64))
		}
	}
	kept, err := s.db().Documents().List(ctx)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, b := range document.Builtins() {
		names = append(names, b.Name)
	}
	for _, d := range kept {
		names = append(names, d.Name)
	}
	slices.Sort(names)
	limit := 50
	if in.MaxResults != nil {
		limit = int(*in.MaxResults)
	}
	out := &ListDocumentsOutput{DocumentIdentifiers: []DocumentIdentifier{}}
	after := deref(in.NextToken)
	if after != "" && !slices.Contains(names, after) {
		return nil, sallyport.Errorf(sallyport.InvalidNextToken, "The page token is not one that this list gave. Leave it out to begin at the beginning.")
	}
	for _, name := range names {
		if name <= after {
			continue
		}
		t, err := s.anyDocument(ctx, name, "", "")
		if sallyport.CodeOf(err) == sallyport.InvalidDocument {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(filters, func(f documentFilter) bool { return !s.matches(t, f) }) {
			if len(out.DocumentIdentifiers) == limit {
				out.NextToken = out.DocumentIdentifiers[limit-1].Name
				return out, nil
			}
			out.DocumentIdentifiers = append(out.DocumentIdentifiers, DocumentIdentifier{
				Name: some(name), Owner: some(t.owner), CreatedDate: &t.Created, DisplayName: some(t.DisplayName), VersionName: some(t.VersionName),
				DocumentVersion: number(t.Number), DocumentFormat: DocumentFormat(t.Format), DocumentType: DocumentType(t.kind),
				PlatformTypes: t.platforms(), SchemaVersion: t.schema(), TargetType: some(t.TargetType), Tags: writeTags(t.doc.Tags),
			})
		}
	}
	return out, nil
}

func (s *Server) matches(t *text, f documentFilter) bool {
	return slices.ContainsFunc(f.values, func(want string) bool {
		switch f.key {
		case "Owner":
			builtin := document.FindBuiltin(t.Document) != nil
			switch want {
			case "Self", "Private":
				return !builtin
			case "Amazon":
				return t.owner == "Amazon"
			case "Public":
				return builtin || slices.Contains(t.doc.Shared, "all")
			}
			return false
		case "DocumentType":
			return want == string(t.kind)
		case "PlatformTypes":
			return slices.Contains(t.platforms(), PlatformType(want))
		case "Name":
			return strings.HasPrefix(t.Document, want)
		case "TargetType":
			return t.TargetType == want
		case "SearchKeyword":
			return strings.Contains(strings.ToLower(t.Document), strings.ToLower(want))
		}
		value, ok := t.doc.Tags[strings.TrimPrefix(f.key, "tag:")]
		return ok && value == want
	})
}

func (s *Server) describeDocumentPermission(ctx context.Context, _ *api.Call, in *DescribeDocumentPermissionInput) (*DescribeDocumentPermissionOutput, error) {
	name := documentName(&in.Name)
	if err := ours(name); err != nil {
		return nil, err
	}
	d, err := s.db().Documents().Get(ctx, name)
	if err != nil {
		return nil, err
	}
	out := &DescribeDocumentPermissionOutput{AccountIds: []string{}, AccountSharingInfoList: []AccountSharingInfo{}}
	limit := 200
	if in.MaxResults != nil {
		limit = int(*in.MaxResults)
	}
	for _, account := range d.Shared {
		if account <= deref(in.NextToken) {
			continue
		}
		if len(out.AccountIds) == limit {
			out.NextToken = &out.AccountIds[limit-1]
			break
		}
		out.AccountIds = append(out.AccountIds, account)
		out.AccountSharingInfoList = append(out.AccountSharingInfoList, AccountSharingInfo{AccountId: &account, SharedDocumentVersion: some("$DEFAULT")})
	}
	return out, nil
}

func (s *Server) modifyDocumentPermission(ctx context.Context, _ *api.Call, in *ModifyDocumentPermissionInput) (*ModifyDocumentPermissionOutput, error) {
	name := documentName(&in.Name)
	if err := ours(name); err != nil {
		return nil, err
	}
	for _, accounts := range [][]string{in.AccountIdsToAdd, in.AccountIdsToRemove} {
		if len(accounts) > 1 && slices.ContainsFunc(accounts, func(a string) bool { return strings.EqualFold(a, "all") }) {
			return nil, sallyport.Errorf(sallyport.ValidationException, "A document is shared with all accounts, or with those that are listed by ID: all cannot be among others.")
		}
	}
	return &ModifyDocumentPermissionOutput{}, s.db().Documents().Share(ctx, name, in.AccountIdsToAdd, in.AccountIdsToRemove, maxShared)
}

// taggedDocument is what tag operations are about, if it is a document.
func (s *Server) taggedDocument(ctx context.Context, c *api.Call, resource string) (api.Question, error) {
	questions, err := s.onDocument(ctx, c, documentName(&resource))
	if err != nil {
		return api.Question{}, err
	}
	return questions[0], nil
}

// noSuchResource turns the word that a document is not there into what tag
// operations say.
func noSuchResource(err error) error {
	if sallyport.CodeOf(err) == sallyport.InvalidDocument {
		return sallyport.Errorf(sallyport.InvalidResourceID, "%s", sallyport.Public(err).Message)
	}
	return err
}
