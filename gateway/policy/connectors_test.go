package policy

import (
	"encoding/json"
	"net/netip"
	"os"
	"testing"
)

// The file is written by what makes policies of connectors: src/connectors/egress-rules.test.ts compares it.
func TestPoliciesThatConnectorsComeToAreRead(t *testing.T) {
	raw, err := os.ReadFile("../../spec/egress-policies.json")
	if err != nil {
		t.Fatal(err)
	}
	var policies map[string]json.RawMessage
	if err := json.Unmarshal(raw, &policies); err != nil {
		t.Fatal(err)
	}
	if len(policies) == 0 {
		t.Fatal("the file holds no policy")
	}
	host, err := NewHost(HostConfig{Reachable: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}})
	if err != nil {
		t.Fatal(err)
	}
	for name, policy := range policies {
		if _, err := Parse(policy, host); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
