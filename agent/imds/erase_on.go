//go:build goexperiment.runtimesecret

package imds

import (
	"runtime"
	"runtime/secret"
)

// erased runs do so that its stack and registers are zeroed at its end, and what it allocated when it is collected.
func erased(do func()) { secret.Do(do) }

const erases = true

// collectErased zeroes what erased calls allocated and nobody refers to any more.
func collectErased() { runtime.GC() }
