package agent

import (
	"net/netip"
	"testing"
)

func prefixes(list ...string) (all []netip.Prefix) {
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func TestMayForward(t *testing.T) {
	tests := []struct {
		name        string
		allow, deny []netip.Prefix
		addr        string
		want        bool
	}{
		{"anywhere, if nobody says anything", nil, nil, "192.0.2.1", true},
		{"the node itself", nil, nil, "127.0.0.1", true},
		{"never where clouds keep credentials", nil, nil, "169.254.169.254", false},
		{"however it is written", nil, nil, "::ffff:169.254.169.254", false},
		{"nor through a translator", nil, nil, "64:ff9b::169.254.169.254", false},
		{"nor on the link", nil, nil, "fe80::1%eth0", false},
		{"unless the operator allows it", prefixes("169.254.169.254/32"), nil, "169.254.169.254", true},
		{"but a wider prefix does not", prefixes("0.0.0.0/0"), nil, "169.254.169.254", false},
		{"not where the operator denies it", nil, prefixes("10.0.0.0/8"), "10.1.2.3", false},
		{"save in a part of it", prefixes("10.1.0.0/16"), prefixes("10.0.0.0/8"), "10.1.2.3", true},
		{"of two as long, the one that denies", prefixes("10.1.0.0/16"), prefixes("10.1.0.0/16"), "10.1.2.3", false},
		{"not this machine, as 0.0.0.0", nil, prefixes("127.0.0.0/8"), "0.0.0.0", false},
		{"nor as ::", nil, prefixes("127.0.0.0/8"), "::", false},
		{"nor as ::ffff:0.0.0.0", nil, prefixes("127.0.0.0/8"), "::ffff:0.0.0.0", false},
		{"nor as 0.0.0.0, where only ::1 is denied", nil, prefixes("::1/128"), "0.0.0.0", false},
		{"nor through 6to4", nil, prefixes("10.0.0.0/8"), "2002:0a01:0203::1", false},
		{"nor through a local translator of 96 bits", nil, prefixes("10.0.0.0/8"), "64:ff9b:1::10.1.2.3", false},
		{"nor of 48", nil, prefixes("10.0.0.0/8"), "64:ff9b:1:0a01:0002:0300::", false},
		{"nor of 64", nil, prefixes("10.0.0.0/8"), "64:ff9b:1:0:000a:0102:0300:0", false},
		{"nor as a compatible address", nil, prefixes("10.0.0.0/8"), "::10.1.2.3", false},
		{"nor as a translated one", nil, prefixes("10.0.0.0/8"), "::ffff:0:10.1.2.3", false},
		{"nor through Teredo", nil, prefixes("10.0.0.0/8"), "2001:0:c000:201::f5fe:fdfc", false},
		{"nor through ISATAP", nil, prefixes("10.0.0.0/8"), "2001:db8::5efe:10.1.2.3", false},
		{"but another IPv6 address", nil, prefixes("10.0.0.0/8"), "2001:db8::1", true},
		{"one network alone", prefixes("10.1.0.0/16"), prefixes("0.0.0.0/0", "::/0"), "127.0.0.1", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := &Agent{ForwardAllow: tt.allow, ForwardDeny: tt.deny}
			if got := a.mayForward(netip.MustParseAddr(tt.addr)); got != tt.want {
				t.Errorf("mayForward(%s) = %v", tt.addr, got)
			}
		})
	}
}

func TestParseAddr(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1": "127.0.0.1", "2852039166": "169.254.169.254", "0x7f.1": "127.0.0.1", "0251.0376.0251.0376": "169.254.169.254",
		"10.1": "10.0.0.1", "10.1.258": "10.1.1.2", "0": "0.0.0.0", "[::1]": "::1", "::ffff:1.2.3.4": "::ffff:1.2.3.4",
		"": "", "db": "", "1.2.3.4.5": "", "256.1.1.1": "", "1..2": "", "4294967296": "", "0x": "", "1_0": "", "+1": "", "08.1.1.1": "",
	} {
		got, ok := parseAddr(text)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("parseAddr(%q) = %v, %v, want %q", text, got, ok, want)
		}
	}
}

// What is an address in any spelling never reaches a resolver, and never panics.
func FuzzParseAddr(f *testing.F) {
	f.Add("0251.0376.0251.0376")
	f.Add("[::1%lo]")
	f.Fuzz(func(t *testing.T, text string) {
		if addr, ok := parseAddr(text); ok && !addr.IsValid() {
			t.Errorf("parseAddr(%q) is no address", text)
		}
	})
}
