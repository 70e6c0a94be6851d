module rekindle/bench/endpoint

go 1.26.8

require rekindle/agent v0.0.0

require golang.org/x/sys v0.49.0 // indirect

replace rekindle/agent => ../../../agent
