package main

import (
	"context"
	"slices"
	"testing"
)

func TestACacheIsPrunedToLessThanWhatMakesItFull(t *testing.T) {
	if cacheKeptMBytes*1e6 >= cacheFullBytes {
		t.Errorf("%d MB are kept of a cache that is full at %g bytes", cacheKeptMBytes, cacheFullBytes)
	}
	if arguments := pruneArguments(); !slices.Contains(arguments, "6000") || !slices.Contains(arguments, "prune") {
		t.Errorf("the arguments are %q", arguments)
	}
}

func TestACacheThatIsNotFullIsLeftAlone(t *testing.T) {
	// There is no client here: to ask for one would be told in the log.
	pruneCache(context.Background(), cacheFullBytes)
}
