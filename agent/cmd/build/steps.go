package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Steps share what they have, so that one that forks or fills memory without end takes it from no one but itself and its
// siblings: daemon, agent and link go on, and the build fails with a reason.
const (
	cgroupRoot  = "/sys/fs/cgroup"
	stepsParent = "steps"
	stepsDir    = cgroupRoot + "/" + stepsParent
	// Many more than a parallel compilation has.
	stepTasks = 4096
	// Of this machine's memory, for daemon, client, agent and the kernel's own.
	keptFromSteps = 384 << 20
)

// boundSteps makes the control group that the daemon starts steps in.
func boundSteps() error {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return err
	}
	memory := info.Totalram*uint64(info.Unit) - keptFromSteps
	if err := os.WriteFile(filepath.Join(cgroupRoot, "cgroup.subtree_control"), []byte("+pids +memory"), 0); err != nil {
		return fmt.Errorf("bound the steps: %w", err)
	}
	if err := os.Mkdir(stepsDir, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	for name, value := range map[string]uint64{"pids.max": stepTasks, "memory.max": memory} {
		if err := os.WriteFile(filepath.Join(stepsDir, name), []byte(strconv.FormatUint(value, 10)), 0); err != nil {
			return fmt.Errorf("bound the steps: %w", err)
		}
	}
	return nil
}

// stepEvents counts what steps of this machine were denied.
type stepEvents struct{ oomKills, refusedTasks int }

func readStepEvents() stepEvents {
	memory, _ := os.ReadFile(filepath.Join(stepsDir, "memory.events"))
	pids, _ := os.ReadFile(filepath.Join(stepsDir, "pids.events"))
	return stepEvents{eventCount(string(memory), "oom_kill"), eventCount(string(pids), "max")}
}

// since says which bound steps ran into since `before`, or an empty text.
func (e stepEvents) since(before stepEvents) string {
	var said []string
	if e.oomKills > before.oomKills {
		said = append(said, "a step wanted more memory than a build's machine has, so that the kernel ended processes of it.")
	}
	if e.refusedTasks > before.refusedTasks {
		said = append(said, fmt.Sprintf("a step wanted more than %d processes and threads, and got no more.", stepTasks))
	}
	return strings.Join(said, " ")
}

// eventCount reads a counter out of a control group's file of events; 0 when there is none.
func eventCount(events, name string) int {
	for line := range strings.Lines(events) {
		if words := strings.Fields(line); len(words) == 2 && words[0] == name {
			count, _ := strconv.Atoi(words[1])
			return count
		}
	}
	return 0
}
