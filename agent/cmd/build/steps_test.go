package main

import (
	"strings"
	"testing"
)

func TestABoundThatStepsRanIntoIsSaid(t *testing.T) {
	for _, c := range []struct{ before, memory, pids, want string }{
		{"", "low 0\nmax 7\noom 1\noom_kill 2\n", "max 0\n", "more memory"},
		{"", "oom_kill 0\n", "max 12\n", "4096 processes"},
		{"", "oom_kill 0\noom_group_kill 5\n", "max 0\n", ""},
		{"", "", "", ""},
		{"oom_kill 2\nmax 12\n", "oom_kill 2\n", "max 12\n", ""},
		{"oom_kill 2\nmax 12\n", "oom_kill 2\n", "max 13\n", "4096 processes"},
	} {
		before := stepEvents{eventCount(c.before, "oom_kill"), eventCount(c.before, "max")}
		now := stepEvents{eventCount(c.memory, "oom_kill"), eventCount(c.pids, "max")}
		if said := now.since(before); !strings.Contains(said, c.want) || c.want == "" && said != "" {
			t.Errorf("%q and %q after %q are said as %q", c.memory, c.pids, c.before, said)
		}
	}
}
