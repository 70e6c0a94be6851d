package main

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

// The cache disk has 16 GiB, of which a build finds at least half free. What is used least recently goes once this much is used,
// until the second number is reached, so that not every build has to clear up.
const (
	cacheFullBytes  = 8e9
	cacheKeptMBytes = 6000
)

// pruneCache is for the end of a build, when what it made was read. A cache that stays too large is trouble for later builds, none
// for this one.
func pruneCache(ctx context.Context, used int64) {
	if used <= cacheFullBytes {
		return
	}
	fmt.Printf("[builder] the cache has %.1f GB: removing what was used least recently\n", float64(used)/1e9)
	out, err := exec.CommandContext(ctx, "/usr/bin/buildctl", pruneArguments()...).CombinedOutput()
	if err != nil {
		fmt.Printf("[builder] that failed: %v: %.500s\n", err, out)
	}
}

func pruneArguments() []string {
	return []string{"--addr", "unix://" + socket, "prune", "--all", "--keep-storage", strconv.Itoa(cacheKeptMBytes)}
}

// cacheUse is how much of the cache disk is used; 0 when that cannot be told.
func cacheUse() int64 {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(cacheMount, &stat); err != nil {
		return 0
	}
	return int64(stat.Blocks-stat.Bfree) * stat.Bsize
}
