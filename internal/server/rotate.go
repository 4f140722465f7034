package server

import (
	"context"
	"fmt"
	"os"

	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/statedir"
	"github.com/sallyport/sallyport/internal/store"
)

// A Rotation is what [RotateKey] did.
type Rotation struct {
	KeyFile string
	Version uint32 // of the root key that is the newest now
	Sealed  int    // access keys and KMS keys that were sealed anew
}

// RotateKey adds a fresh root key to the key file, and seals all that the database
// keeps under a root key with it. Older root keys stay in the file, for short-lived
// credentials that they sealed; with dropOld they are taken out, and such
// credentials are good for nothing at once.
//
// No server may run on the same state or database: that is an error. An
// interrupted rotation has lost nothing, and is finished by another.
func RotateKey(ctx context.Context, config Config, dropOld bool) (r Rotation, err error) {
	c, err := config.settle()
	if err != nil {
		return r, err
	}
	if os.Getenv(rootKeyEnv) != "" {
		return r, fmt.Errorf("the root key is in %s, where it cannot be changed from here; put it into a file (--key-file), and unset the variable", rootKeyEnv)
	}
	if _, err := os.Stat(c.State); err != nil {
		return r, fmt.Errorf("there is no server's state in %s; name it with --state", c.State)
	}
	unlock, err := statedir.Lock(c.State, "sallyport server")
	if err != nil {
		return r, fmt.Errorf("%w; stop the server, rotate its key, and start it again", err)
	}
	defer unlock()
	db, err := store.Open(ctx, c.Database)
	if err != nil {
		return r, err
	}
	defer db.Close()
	if err := db.Claim(ctx); err != nil {
		return r, err
	}
	keys, err := keyring.ReadFile(c.KeyFile)
	if err != nil {
		return r, err
	}
	if err := db.Unlock(ctx, keys); err != nil { // before anything is written: it is this database's key
		return r, err
	}
	if keys, err = keyring.RotateFile(c.KeyFile); err != nil {
		return r, err
	}
	if err := db.Unlock(ctx, keys); err != nil {
		return r, err
	}
	r = Rotation{KeyFile: c.KeyFile, Version: keys.Newest()}
	if r.Sealed, err = db.Reseal(ctx); err != nil {
		return r, err
	}
	if dropOld {
		_, err = keyring.DropOld(c.KeyFile)
	}
	return r, err
}
