module rekindle.invalid/tsc

go 1.21
