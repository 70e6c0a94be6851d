//go:build !goexperiment.runtimesecret

package imds

// erased just runs do: this build has no means to erase. Set-up builds the agent with GOEXPERIMENT=runtimesecret.
func erased(do func()) { do() }

const erases = false

func collectErased() {}
