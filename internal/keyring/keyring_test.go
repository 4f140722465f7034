package keyring

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func root(fill byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, rootSize))
}

func parse(t testing.TB, text string) *Keyring {
	t.Helper()
	k, err := Parse(text)
	must(t, err)
	return k
}

// What was sealed opens as it was, with what it was sealed with, and with
// nothing else.
func TestSealedOpensOnlyAsItWasSealed(t *testing.T) {
	one := parse(t, "1:"+root(1))
	rapid.Check(t, func(t *rapid.T) {
		plaintext := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "plaintext")
		associated := rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "associated")
		sealed := one.For("a").Seal(plaintext, associated)
		if got, err := one.For("a").Open(sealed, associated); err != nil || !bytes.Equal(got, plaintext) {
			t.Fatalf("Open = %x, %v", got, err)
		}
		if len(sealed) != len(plaintext)+overhead || Version(sealed) != 1 {
			t.Fatalf("%d bytes sealed to %d, version %d", len(plaintext), len(sealed), Version(sealed))
		}

		other := append(bytes.Clone(associated), 0)
		touched := bytes.Clone(sealed)
		touched[rapid.IntRange(0, len(touched)-1).Draw(t, "where")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		for name, open := range map[string]func() ([]byte, error){
			"other associated data": func() ([]byte, error) { return one.For("a").Open(sealed, other) },
			"another purpose":       func() ([]byte, error) { return one.For("b").Open(sealed, associated) },
			"another root key":      func() ([]byte, error) { return Generate().For("a").Open(sealed, associated) },
			"one bit changed":       func() ([]byte, error) { return one.For("a").Open(touched, associated) },
			"cut short": func() ([]byte, error) {
				return one.For("a").Open(sealed[:rapid.IntRange(0, len(sealed)-1).Draw(t, "length")], associated)
			},
		} {
			if got, err := open(); err == nil {
				t.Fatalf("%s: opened as %x", name, got)
			}
		}
	})
}

func TestSealingTwiceLooksDifferent(t *testing.T) {
	box := Generate().For("a")
	if bytes.Equal(box.Seal([]byte("x"), nil), box.Seal([]byte("x"), nil)) {
		t.Error("the same plaintext was sealed to the same bytes twice")
	}
}

// golden was sealed by this program with the key of TestGoldenSeal.
const golden = "AQAAAAckl88aXHp/6SQXXjPsS+91WybkVfDDJYl2YHZBcI+oCv18pa3hYEt6I1RALoW4COM="

// If golden no longer opens, neither does any database in use.
func TestGoldenSeal(t *testing.T) {
	sealed, err := base64.StdEncoding.DecodeString(golden)
	must(t, err)
	k := parse(t, "7:"+root(7))
	got, err := k.For("access-key").Open(sealed, []byte("AKIAEXAMPLE\x00AIDAEXAMPLE"))
	if err != nil || string(got) != "a secret of long ago" {
		t.Errorf("Open = %q, %v", got, err)
	}
}

func TestRotation(t *testing.T) {
	old := parse(t, "1:"+root(1))
	both := parse(t, "1:"+root(1)+"\n2:"+root(2)+"\n")
	newest := parse(t, "2:"+root(2))

	before := old.For("a").Seal([]byte("before"), nil)
	if _, err := both.For("a").Open(before, nil); err != nil {
		t.Errorf("what was sealed before the rotation: %v", err)
	}
	after := both.For("a").Seal([]byte("after"), nil)
	if Version(after) != 2 || both.Newest() != 2 {
		t.Errorf("sealed with version %d, want the newest", Version(after))
	}
	if _, err := newest.For("a").Open(after, nil); err != nil {
		t.Errorf("with the newest alone: %v", err)
	}
	_, err := newest.For("a").Open(before, nil)
	if !errors.Is(err, ErrWrongKey) || !strings.Contains(err.Error(), "version 1") {
		t.Errorf("a version that was dropped: %v", err)
	}
}

func TestCheck(t *testing.T) {
	one, two := parse(t, "1:"+root(1)), parse(t, "1:"+root(1)+",2:"+root(2))
	check := one.Check()
	must(t, one.Verify(check))
	must(t, two.Verify(check))
	must(t, two.Verify(two.Check()))
	for name, k := range map[string]*Keyring{
		"another key":                parse(t, "1:"+root(9)),
		"the key by another version": parse(t, "2:"+root(1)),
	} {
		if err := k.Verify(check); !errors.Is(err, ErrWrongKey) || !strings.Contains(err.Error(), "from your copy of it") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if one.Verify(nil) == nil || one.Verify(one.For("check").Seal([]byte("something else"), nil)) == nil {
		t.Error("a check that is none was verified")
	}
}

func TestParse(t *testing.T) {
	for name, text := range map[string]string{
		"one line":               "1:" + root(1),
		"comments and blanks":    "# a comment: 1:x\n\n  1:" + root(1) + "\r\n\t# and another\n",
		"in one line":            "1:" + root(1) + ", 3:" + root(3),
		"in any order":           "9:" + root(9) + "\n1:" + root(1),
		"the highest version":    fmt.Sprintf("%d:%s", uint32(1<<32-1), root(1)),
		"as many as may be held": manyRoots(maxRoots),
	} {
		t.Run(name, func(t *testing.T) {
			k, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			if again := parse(t, k.text()); again.text() != k.text() {
				t.Error("what is written is not read back as it was")
			}
		})
	}
	for name, c := range map[string]struct{ text, words string }{
		"nothing":           {"", "no root key"},
		"comments alone":    {"# 1:x", "no root key"},
		"no version":        {root(1), "a version, a colon and a key"},
		"version 0":         {"0:" + root(1), "a version, a colon and a key"},
		"a version too big": {"4294967296:" + root(1), "a version, a colon and a key"},
		"not base64":        {"1:?" + root(1), "32 bytes in base64"},
		"a short key":       {"1:AAAA", "32 bytes in base64"},
		"a version twice":   {"1:" + root(1) + "\n1:" + root(2), "given twice"},
		"too many":          {manyRoots(maxRoots + 1), "drop the oldest"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(c.text)
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("Parse = %v, want %q", err, c.words)
			}
			if err != nil && strings.Contains(err.Error(), root(1)[:8]) {
				t.Error("the error quotes the key")
			}
		})
	}
}

func manyRoots(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d:%s\n", i+1, root(byte(i)))
	}
	return b.String()
}

// Parse panics on no input, and what it accepts can be written.
func FuzzParse(f *testing.F) {
	f.Add("1:" + root(1) + "\n# x\n2:" + root(2))
	f.Add("1:,:::,0:0")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(k.text()); err != nil || again.text() != k.text() {
			t.Fatalf("read back: %v", err)
		}
	})
}

// Open panics on no input, and opens none that was not sealed.
func FuzzOpen(f *testing.F) {
	box := parse(f, "1:"+root(1)).For("a")
	f.Add(parse(f, "1:"+root(2)).For("a").Seal([]byte("x"), []byte("y")), []byte("y"))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, sealed, associated []byte) {
		if _, err := box.Open(sealed, associated); err == nil {
			t.Fatal("opened a forgery")
		}
	})
}

// A KMS key opens, of all inputs, what it has sealed, with the context that it was
// sealed with, and nothing else. It panics on none.
func FuzzOpenMaterial(f *testing.F) {
	key, err := Material(NewMaterial())
	if err != nil {
		f.Fatal(err)
	}
	with := Context{"a": "b", "cd": ""}
	sealed, err := key.Seal(f.Context(), []byte("secret"), with)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed, "a", "b", "cd", "")
	f.Add(sealed, "ac", "b", "d", "")
	f.Add(sealed[:13], "", "", "", "")
	f.Add([]byte{format}, "", "", "", "")
	f.Add([]byte{}, "", "", "", "")
	f.Fuzz(func(t *testing.T, b []byte, k1, v1, k2, v2 string) {
		given := Context{k1: v1, k2: v2}
		text, err := key.Open(t.Context(), b, given)
		same := bytes.Equal(b, sealed) && maps.Equal(given, with)
		if same != (err == nil) || err != nil && !errors.Is(err, ErrWrongKey) || same && string(text) != "secret" {
			t.Errorf("opened %q, %v; it is what was sealed: %v", text, err, same)
		}
	})
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	if _, err := ReadFile(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "restore it") {
		t.Errorf("ReadFile of nothing: %v", err)
	}
	made, err := CreateFile(path)
	must(t, err)
	if _, err := CreateFile(path); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "there already") {
		t.Errorf("CreateFile over a key: %v", err)
	}
	read, err := ReadFile(path)
	must(t, err)
	must(t, read.Verify(made.Check()))
	if runtime.GOOS != "windows" {
		st, err := os.Stat(path)
		must(t, err)
		if st.Mode().Perm() != 0o600 {
			t.Errorf("mode is %o, want 600", st.Mode().Perm())
		}
		for _, mode := range []fs.FileMode{0o640, 0o604, 0o660, 0o620, 0o644} {
			must(t, os.Chmod(path, mode))
			if _, err := ReadFile(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
				t.Errorf("mode %o: %v, want a refusal", mode, err)
			}
		}
		must(t, os.Chmod(path, 0o400))
		_, err = ReadFile(path)
		must(t, err)
		must(t, os.Chmod(path, 0o600))
	}

	rotated, err := RotateFile(path)
	must(t, err)
	if rotated.Newest() != 2 {
		t.Errorf("rotated to version %d, want 2", rotated.Newest())
	}
	read, err = ReadFile(path)
	must(t, err)
	must(t, read.Verify(made.Check()))
	must(t, read.Verify(rotated.Check()))
	left, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	if len(left) != 1 {
		t.Errorf("rotation left %v", left)
	}

	must(t, os.WriteFile(path, bytes.Repeat([]byte("#\n"), maxFile), 0o600))
	if _, err := ReadFile(path); err == nil || !strings.Contains(err.Error(), "not a key file") {
		t.Errorf("a file too long: %v", err)
	}
}

func TestCreateFileInNoDirectory(t *testing.T) {
	if _, err := CreateFile(filepath.Join(t.TempDir(), "no", "root.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("CreateFile = %v", err)
	}
}

func TestFromEnvLeavesNothingBehind(t *testing.T) {
	const name = "SALLYPORT_TEST_ROOT_KEY"
	if _, set, err := FromEnv(name); set || err != nil {
		t.Errorf("unset: %v, %v", set, err)
	}
	for text, good := range map[string]bool{"1:" + root(1): true, "not a key": false} {
		t.Setenv(name, text)
		k, set, err := FromEnv(name)
		if !set || (err == nil) != good || (k != nil) != good {
			t.Errorf("FromEnv = %v, %v, %v", k, set, err)
		}
		if err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not name the variable: %v", err)
		}
		if _, still := os.LookupEnv(name); still {
			t.Error("the variable is still there for children to inherit")
		}
	}
}

func TestBoxesFromManyGoroutines(t *testing.T) {
	k := Generate()
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for range 100 {
				box := k.For(fmt.Sprint(i % 3))
				if _, err := box.Open(box.Seal([]byte("x"), nil), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkSealAndOpen(b *testing.B) {
	box := Generate().For("session-token")
	token, associated := make([]byte, 200), []byte("session-token")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := box.Open(box.Seal(token, associated), associated); err != nil {
			b.Fatal(err)
		}
	}
}
