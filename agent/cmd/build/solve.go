package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

const (
	// Where the OCI worker with the overlay snapshotter keeps blobs by digest.
	contentDir = cacheMount + "/runc-overlayfs/content/blobs/sha256"
)

// solve runs the Dockerfile in the daemon and returns the folder of the resulting OCI layout.
func solve(ctx context.Context, up *daemon, with settings) (layout string, err error) {
	layout = filepath.Join(cacheMount, "rekindle-out")
	if err := prepareLayout(layout); err != nil {
		return "", err
	}
	args, err := solveArguments(layout, with)
	if err != nil {
		return "", err
	}
	log := &buildLog{to: os.Stdout}
	// A client whose daemon is gone would ask for it until its time is up.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(up.over, cancel)()
	cmd := exec.CommandContext(ctx, "/usr/bin/buildctl", args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = with.environment()
	before := readStepEvents()
	err = cmd.Run()
	if up.over.Err() != nil {
		return "", errors.Join(context.Cause(up.over), log.flush())
	}
	if err := errors.Join(err, log.flush()); err != nil {
		if said := readStepEvents().since(before); said != "" {
			fmt.Printf("[builder] %s\n", said)
		}
		if log.diskFull {
			return "", failure{exitDiskFull, errors.New("the build's disk is full")}
		}
		if log.explanation != "" {
			fmt.Printf("[builder] %s\n", log.explanation)
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Exited() && log.began {
			return "", failure{exitDockerfile, errors.New("the Dockerfile could not be built")}
		}
		return "", fmt.Errorf("buildctl: %w", err)
	}
	return layout, nil
}

func solveArguments(layout string, with settings) ([]string, error) {
	bases, err := readBases()
	if err != nil {
		return nil, err
	}
	if err := saySubstitutes(bases, with); err != nil {
		return nil, err
	}
	args := []string{
		// Its own limits suit a daemon that is up: on a busy host this one may take longer to serve than one try may last.
		"--addr", "unix://" + socket, "--wait", "--timeout", strconv.Itoa(int(daemonStart.Seconds())),
		"build", "--progress=plain", "--frontend=dockerfile.v0",
		"--local", "context=" + contextDir, "--local", "dockerfile=" + contextDir,
		// A `# syntax=` line would fetch a frontend from a registry; the built-in one is of the daemon's version.
		"--opt", "cmdline=dockerfile.v0",
		"--oci-layout", "base=" + basesDir,
		"--output", "type=oci,tar=false,compression=uncompressed,dest=" + layout,
	}
	epoch, err := epochOptions()
	if err != nil {
		return nil, err
	}
	for _, option := range append(append(baseContexts(bases, with), epoch...), attest) {
		args = append(args, "--opt", option)
	}
	return args, nil
}

// prepareLayout makes the output folder so that its blobs are the daemon's own: the exporter finds them there, and hands nothing over
// through two processes at 3 MB/s.
func prepareLayout(layout string) error {
	if err := os.RemoveAll(layout); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(layout, "blobs"), 0o700); err != nil {
		return err
	}
	return os.Symlink(contentDir, filepath.Join(layout, "blobs", "sha256"))
}

// seedContent makes the bases' blobs known where BuildKit keeps content. It would find them in the bases' layout by itself, but
// hand them over through two processes at 3 MB/s; a blob that lies there already is taken as it is, checked by its size. Pruning
// removes what no build refers to; these are only links, so that nothing has to be copied again.
func seedContent() error {
	if err := os.MkdirAll(contentDir, 0o700); err != nil {
		return err
	}
	blobs, err := filepath.Glob(filepath.Join(basesDir, "blobs", "sha256", "*"))
	if err != nil {
		return err
	}
	for _, blob := range blobs {
		if err := os.Symlink(blob, filepath.Join(contentDir, filepath.Base(blob))); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// buildLog passes whole lines on, notices when a step or the exporter ran out of space, and leaves out the client's
// remarks about this machine, which say nothing about the build.
type buildLog struct {
	to      io.Writer
	partial []byte
	// The daemon took the build: what fails before is not the Dockerfile's doing.
	began    bool
	diskFull bool
	// What to do about the last error that is known.
	explanation string
}

const (
	maxLogLine   = 64 << 10
	clientRemark = `time="`
)

func (l *buildLog) Write(p []byte) (int, error) {
	l.partial = append(l.partial, p...)
	for {
		end := bytes.IndexByte(l.partial, '\n') + 1
		if end == 0 && len(l.partial) > maxLogLine {
			end = len(l.partial)
		}
		if end == 0 {
			return len(p), nil
		}
		if err := l.line(l.partial[:end]); err != nil {
			return 0, err
		}
		l.partial = l.partial[end:]
	}
}

func (l *buildLog) line(line []byte) error {
	if bytes.HasPrefix(line, []byte(clientRemark)) {
		return nil
	}
	if line[0] == '#' {
		l.began = true
	}
	if bytes.Contains(bytes.ToLower(line), []byte("no space left on device")) {
		l.diskFull = true
	}
	if isFailure(line) {
		if text := explain(string(line)); text != "" {
			l.explanation = text
		}
	}
	_, err := l.to.Write(line)
	return err
}

// isFailure tells what BuildKit says of a build that failed from what steps say.
func isFailure(line []byte) bool {
	for _, mark := range []string{"failed to solve", "failed to run Build function", "exec format error"} {
		if bytes.Contains(line, []byte(mark)) {
			return true
		}
	}
	return false
}

// flush passes on a last line without an end.
func (l *buildLog) flush() error {
	if len(l.partial) == 0 {
		return nil
	}
	return l.line(append(l.partial, '\n'))
}
