// Command build runs one Dockerfile build inside the builder microVM: it unpacks the context from a disk, lets BuildKit solve
// it, writes the resulting root file system onto another disk and leaves the container config at the start of the first.
//
// Everything it handles may come from a hostile Dockerfile, so nothing but the exit code, the log and the bounded result
// leaves this guest; the host reads those as untrusted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"rekindle/agent/settle"
)

// Exit codes the host tells apart.
const (
	exitOK              = 0
	exitDockerfile      = 10
	exitNoDockerfile    = 11
	exitDiskFull        = 12
	exitInternal        = 13
	cacheMount          = "/var/lib/buildkit"
	contextDir          = "/var/tmp/context"
	outMount            = "/mnt/out"
	basesDir            = "/var/lib/rekindle/bases"
	basesFile           = "/usr/lib/rekindle/bases"
	dockerfileInContext = contextDir + "/Dockerfile"
)

// failure is an error with the exit code that names it to the host.
type failure struct {
	code int
	err  error
}

func (f failure) Error() string { return f.err.Error() }
func (f failure) Unwrap() error { return f.err }

func main() {
	if filepath.Base(os.Args[0]) == runtimeName {
		fmt.Fprintf(os.Stderr, "build: %v\n", runAsRuntime(os.Args[1:]))
		os.Exit(exitInternal)
	}
	contextSerial := flag.String("context", "spare1", "serial of the disk that starts with the context's tar; the result is written there")
	cacheSerial := flag.String("cache", "spare2", "serial of the disk with BuildKit's state; formatted when blank")
	outSerial := flag.String("out", "spare3", "serial of the disk that gets the root file system")
	baseLayer := flag.String("base-layer", "", "digest of the layer that the out disk already holds")
	stay := flag.Bool("stay", false, "after a build that succeeds leave the daemon running and the cache mounted, for the next one")
	layer := flag.String("list-layer", "", "tar of a layer: prints the digests of its files and does nothing else")
	flag.Parse()
	if *layer != "" {
		if err := listLayer(*layer, os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n", err)
			os.Exit(exitInternal)
		}
		return
	}
	err := run(context.Background(), disks{*contextSerial, *cacheSerial, *outSerial}, *baseLayer, *stay)
	if err == nil {
		os.Exit(exitOK)
	}
	fmt.Fprintf(os.Stderr, "build: %v\n", err)
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	var f failure
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return exitDiskFull
	case errors.As(err, &f):
		return f.code
	default:
		return exitInternal
	}
}

// disks by serial.
type disks struct{ context, cache, out string }

func run(ctx context.Context, serials disks, baseLayer string, stay bool) (err error) {
	with, err := takeSettings()
	if err != nil {
		return err
	}
	if err := with.writeFiles(); err != nil {
		return err
	}
	contextDisk, err := diskBySerial(serials.context)
	if err != nil {
		return err
	}
	cacheDisk, err := diskBySerial(serials.cache)
	if err != nil {
		return err
	}
	outDisk, err := diskBySerial(serials.out)
	if err != nil {
		return err
	}
	took := &phases{}
	defer func() { fmt.Printf("[builder] took: %s\n", took) }()
	if err := took.of("cache", func() error { return mountCache(ctx, cacheDisk) }); err != nil {
		return err
	}
	defer func() {
		if err == nil && stay {
			return
		}
		err = errors.Join(err, took.of("unmount", func() error { return unmount(cacheMount) }))
	}()
	defer func() {
		if err := took.of("trim", func() error { return settle.Trim(cacheMount, trimmedLeast) }); err != nil {
			fmt.Printf("[builder] %v\n", err)
		}
	}()
	up, err := daemonFor(with)
	if err != nil {
		return err
	}
	defer func() {
		pruneCache(ctx, cacheUse())
		if err != nil || !stay {
			err = errors.Join(err, took.of("stop", up.stop))
		}
	}()
	layout, err := solveContext(ctx, up, contextDisk, with, took)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(layout)) }()
	image, err := readImage(layout)
	if err != nil {
		return err
	}
	var made rootDisk
	err = took.of("root disk", func() (err error) {
		made, err = writeRootDisk(ctx, outDisk, layout, image, baseLayer, took)
		return err
	})
	if err != nil {
		return err
	}
	from := origin{RootFS: made.digest, Dependencies: image.dependencies, BuildKit: buildkitVersion(), inventory: made.inventory}
	return writeResult(contextDisk, result{Config: image.config, UsedBytes: made.usedBytes, Origin: from})
}

// solveContext unpacks the context while the daemon starts, which takes seconds, and has the client start beside it, which takes as
// long.
func solveContext(ctx context.Context, up *daemon, contextDisk string, with settings, took *phases) (layout string, err error) {
	err = took.of("context", func() error {
		if err := unpackContext(ctx, contextDisk); err != nil {
			return err
		}
		return tellApart(contextDir, sentFiles)
	})
	if err != nil {
		return "", err
	}
	if err := nameResolution(); err != nil {
		return "", err
	}
	err = took.of("solve", func() (err error) {
		layout, err = solve(ctx, up, with)
		return err
	})
	return layout, err
}
