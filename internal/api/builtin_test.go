package api

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

// The managed policies that modules for managed nodes attach are there. Each has an
// ID of its own, and a document that is one of a policy.
func TestBuiltins(t *testing.T) {
	ids := map[string]string{}
	for _, p := range Builtins() {
		if other, ok := ids[p.ID]; ok || len(p.ID) != 21 {
			t.Errorf("%s has the ID %s, as has %q", p.Name, p.ID, other)
		}
		ids[p.ID] = p.Name
		if _, err := policy.Parse(p.Document); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		if found, ok := Builtin(p.ARN); !ok || found.Name != p.Name {
			t.Errorf("%s is not found", p.ARN)
		}
	}
	for _, name := range []string{
		"AdministratorAccess", "AmazonSSMManagedInstanceCore", "AmazonSSMReadOnlyAccess", "AmazonSSMFullAccess", "AWSKeyManagementServicePowerUser", "IAMFullAccess",
		"IAMReadOnlyAccess", "ReadOnlyAccess", "CloudWatchAgentServerPolicy", "CloudWatchAgentAdminPolicy", "AmazonSSMPatchAssociation", "AmazonSSMDirectoryServiceAccess",
		"AmazonSSMManagedEC2InstanceDefaultPolicy",
	} {
		if _, ok := Builtin("arn:aws:iam::aws:policy/" + name); !ok {
			t.Errorf("there is no %s", name)
		}
	}
	for _, p := range Builtins() { // nothing that reads, by its name, may change or open anything
		if !strings.Contains(p.Name, "ReadOnly") {
			continue
		}
		for _, verb := range []string{"Put", "Create", "Delete", "Update", "Start", "Send", "Decrypt", "sallyport", `"*"]`, ":*"} {
			if strings.Contains(p.Document, verb) {
				t.Errorf("%s allows %s: %s", p.Name, verb, p.Document)
			}
		}
	}
}
