package main

import (
	"strings"
	"testing"
)

func TestABoundThatStepsRanIntoIsSaid(t *testing.T) {
	for _, c := range []struct{ memory, pids, want string }{
		{"low 0\nmax 7\noom 1\noom_kill 2\n", "max 0\n", "more memory"},
		{"oom_kill 0\n", "max 12\n", "4096 processes"},
		{"oom_kill 0\noom_group_kill 5\n", "max 0\n", ""},
		{"", "", ""},
	} {
		if said := exceeded(c.memory, c.pids); !strings.Contains(said, c.want) || c.want == "" && said != "" {
			t.Errorf("%q and %q are said as %q", c.memory, c.pids, said)
		}
	}
}
