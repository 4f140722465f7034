package sallyport

import "time"

// A Document is a session document that the account keeps: versions of one
// text, of which one is the default.
type Document struct {
	Name    string
	Created time.Time
	Default int // the number of the version that counts where none is named
	Latest  int // the highest number there is; one that was deleted is not given out again
	Tags    map[string]string
	Shared  []string // account IDs, or "all"
}

// A DocumentVersion is one text of a document.
type DocumentVersion struct {
	Document    string // its name
	Number      int    // from 1
	VersionName string // given by its author, one of a kind in the document; may be empty
	DisplayName string
	TargetType  string
	Format      string // JSON or YAML
	Content     string
	Created     time.Time
}
