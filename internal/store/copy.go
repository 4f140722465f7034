package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// CopySQLite writes an SQLite database as it is after its last commit to a file
// that is not there yet. The database may be in use: what is committed meanwhile
// is left out.
func CopySQLite(ctx context.Context, from, to string) error {
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("copy database: there is none at %s", from) // SQLite would make one
	}
	db, err := sql.Open("sqlite", sqliteURL(from))
	if err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, to); err != nil {
		return fmt.Errorf("copy database: %w", translate(err))
	}
	return nil
}
