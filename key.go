package sallyport

import "time"

// A KMSKey is a key of the key service, which data keys are sealed under. What
// it is made of never leaves the server.
type KMSKey struct {
	ID          string // a UUID
	Description string
	Created     time.Time
	Disabled    bool
	Policy      string            // its key policy
	Tags        map[string]string // may be nil
	DeleteAt    time.Time         // when it will be gone; zero if it stays

	// Outside is where it is, if it is not in the database: the name of a key
	// store of the server's configuration and of the key there.
	Outside OutsideKey
}

// Usable reports whether anything may be sealed or opened with k.
func (k *KMSKey) Usable() bool { return !k.Disabled && k.DeleteAt.IsZero() }

// An OutsideKey is a key in an outside KMS. Its zero value is none.
type OutsideKey struct {
	Store string // as the server's configuration names it
	Name  string // of the key, there
}

// A KMSAlias is another name of a key. It can be given to another key.
type KMSAlias struct {
	Name             string // "alias/…"
	Key              string // ID
	Created, Updated time.Time
}
