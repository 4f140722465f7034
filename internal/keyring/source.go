package keyring

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// maxFile bounds what is read of a key file; the longest that [Parse] takes is
// a tenth of it.
const maxFile = 64 << 10

const fileHeader = `# The root keys of a Sallyport control plane. With these and a copy of its
# database anyone can read every access key. Keep a copy of this file, and keep
# it apart from copies of the database. The highest version seals.
`

// FromEnv reads root keys from the environment variable name, and removes the
// variable, so that no program we start inherits it. It reports whether the
// variable was set to anything.
func FromEnv(name string) (k *Keyring, set bool, err error) {
	text := os.Getenv(name)
	if err := os.Unsetenv(name); err != nil {
		return nil, false, fmt.Errorf("remove %s from the environment: %w", name, err)
	}
	if text == "" {
		return nil, false, nil
	}
	k, err = Parse(text)
	if err != nil {
		return nil, true, fmt.Errorf("root key in the environment variable %s: %w", name, err)
	}
	return k, true, nil
}

// ReadFile reads root keys from a file. On systems with Unix permissions it
// refuses a file that anyone but its owner may touch. A missing file is an
// error that matches [fs.ErrNotExist].
func ReadFile(path string) (*Keyring, error) {
	roots, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("root key file %s: %w", path, err)
	}
	return roots, nil
}

func readFile(path string) (*Keyring, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("it is not there; restore it from your copy of it: %w", fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Ask the open file, not the path: the path may name another by now.
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := st.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return nil, fmt.Errorf("others than its owner may use it (its mode is %#o); run chmod 600 on it, and rotate the key if that was so for long", mode)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("it is longer than %d bytes, so it is not a key file; name the right one", maxFile)
	}
	return Parse(string(b))
}

// CreateFile makes a root key and writes it to a new file, mode 0600, that is
// on the disk when it returns. A file that is there already is left as it is,
// and the error matches [fs.ErrExist].
//
// Only a control plane whose database holds no key-check value may call it: a
// fresh key beside a database in use would leave its access keys shut for ever.
func CreateFile(path string) (*Keyring, error) {
	k := Generate()
	if err := writeFile(path, k.text()); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("root key file %s: it is there already; use it, or name another: %w", path, fs.ErrExist)
		}
		return nil, fmt.Errorf("create root key file: %w", err)
	}
	return k, nil
}

// RotateFile adds a fresh root key to a file, above all that it holds, and
// returns them all. The old versions stay, because what they sealed is still
// about; what the new version seals cannot be opened with the file as it was.
func RotateFile(path string) (*Keyring, error) {
	old, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots := maps.Clone(old.roots)
	roots[old.newest+1] = freshRoot()
	return replaceFile(path, newKeyring(roots))
}

// DropOld takes all but the newest root key out of a file, and returns what is left.
// What the others sealed cannot be opened any more.
func DropOld(path string) (*Keyring, error) {
	old, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	return replaceFile(path, newKeyring(map[uint32][]byte{old.newest: old.roots[old.newest]}))
}

// replaceFile writes a keyring over a root key file.
func replaceFile(path string, k *Keyring) (*Keyring, error) {
	// Written aside and renamed, so that a crash leaves the old file or the
	// new one and never half of either.
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace root key file: %w", err)
	}
	if err := writeFile(next, k.text()); err != nil {
		return nil, fmt.Errorf("replace root key file: %w", err)
	}
	if err := os.Rename(next, path); err != nil {
		return nil, fmt.Errorf("replace root key file: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("replace root key file: %w", err)
	}
	return k, nil
}

func (k *Keyring) text() string {
	var b strings.Builder
	b.WriteString(fileHeader)
	for _, v := range slices.Sorted(maps.Keys(k.roots)) {
		b.WriteString(strconv.FormatUint(uint64(v), 10) + ":" + base64.StdEncoding.EncodeToString(k.roots[v]) + "\n")
	}
	return b.String()
}

// writeFile makes a file that was not there and sees it onto the disk. One that
// it could not finish it takes away again, or the next start would find a key
// file without a key.
func writeFile(path, text string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(path)
		}
	}()
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a name in dir survive a power cut. Windows has no such call
// and needs none.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
