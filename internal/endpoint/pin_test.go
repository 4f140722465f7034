package endpoint

import "testing"

// What can be read as a pin is written as it was, and matches itself alone.
func FuzzParsePin(f *testing.F) {
	f.Add("")
	f.Add("sha256:556b9dcf7e899c41a6bd0d30af2db15dc56c32c38223a03b14eb3fc55d2866d3")
	f.Add("sha256:556B9DCF")
	f.Add("sha1:00")
	f.Fuzz(func(t *testing.T, text string) {
		pin, err := ParsePin(text)
		if err != nil {
			return
		}
		again, err := ParsePin(pin.String())
		if err != nil || again != pin {
			t.Fatalf("%q is %v, which is read as %v, %v", text, pin, again, err)
		}
	})
}
